"""Encoders that cannot be decomposed, and why."""

__all__ = ["REFUSED"]

_SPARSE = "its attention is sparse: most tokens see only a window, some blocks or a few global tokens"
_APPROXIMATE = "its attention is an approximation that never computes probabilities"
_SHORTENED = "it pools or downsamples its tokens on the way, so its layers do not work on one sequence"

REFUSED: dict[str, str] = {
    "big_bird": _SPARSE,
    "canine": _SHORTENED,
    "convbert": "half of each block's heads are convolutions, which pass tokens on past the attention",
    "fnet": "it mixes tokens by a Fourier transform, there is no attention",
    "funnel": _SHORTENED,
    "ibert": "its softmax and its norms are integer approximations",
    "longformer": _SPARSE,
    "luke": "its words and entities attend to each other with four different queries",
    "mobilebert": "its blocks are bottlenecks whose attention does not write into the residual stream",
    "mra": _APPROXIMATE,
    "nystromformer": _APPROXIMATE,
    "perceiver": "its attention runs over latent vectors, not over tokens",
    "reformer": "its attention is hashed into buckets, and its layers are reversible",
    "swin": "its attention is confined to shifted windows, and its patches are merged on the way",
    "yoso": _APPROXIMATE,
}
"""`model_type` and reason: what users asked for or would expect, not everything that is unsupported."""
