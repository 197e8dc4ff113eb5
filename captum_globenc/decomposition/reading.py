"""What reads a mixture, a layer's normalisations one after the other, as one linear map.

D hidden size, E any, K maps of rank one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_globenc.decomposition.record import Normalization


@dataclass(frozen=True)
class Reading:
    """Normalisations without their scales: a diagonal matrix less one of rank one for each centring.

    Args:
        diagonal: `(D,)`; None for ones.
        columns: `(D, K)`, and
        rows: `(K, D)`, whose product is taken off; None for zeros.
    """

    diagonal: Tensor | None = None
    columns: Tensor | None = None
    rows: Tensor | None = None

    @classmethod
    def of(cls, normalizations: Sequence[Normalization], like: Tensor) -> "Reading":
        """Return the map of some normalisations, the first of which reads first.

        Args:
            normalizations: which.
            like: `(..., D)`, has the dtype and the device.
        """
        size = like.shape[-1]
        diagonal = like.new_ones(size)
        columns: list[Tensor] = []
        rows: list[Tensor] = []
        for each in normalizations:
            if each.centred:
                mean = diagonal / size
                for column, row in zip(columns, rows, strict=True):
                    mean = mean - column.mean() * row
                columns.append(like.new_ones(size))
                rows.append(mean)
            if each.gain is not None:
                diagonal = diagonal * each.gain
                columns = [column * each.gain for column in columns]
        if not normalizations:
            return cls()
        if not columns:
            return cls(diagonal)
        return cls(diagonal, torch.stack(columns, dim=1), torch.stack(rows))

    def of_matrix(self, matrix: Tensor, out: Tensor) -> Tensor:
        """Return the map times a matrix `(D, E)`, which may lie in `out`."""
        if self.diagonal is None:
            return matrix
        torch.mul(matrix, self.diagonal[:, None], out=out)
        if self.columns is not None and self.rows is not None:
            out.addmm_(self.columns, self.rows @ matrix, alpha=-1)
        return out

    def of_vectors(self, vectors: Tensor) -> Tensor:
        """Return the map of each of the vectors `(..., D)`."""
        if self.diagonal is None:
            return vectors
        flat = vectors.reshape(-1, vectors.shape[-1])
        read = flat * self.diagonal
        if self.columns is not None and self.rows is not None:
            read.addmm_(flat @ self.rows.T, self.columns.T, alpha=-1)
        return read.view(vectors.shape)
