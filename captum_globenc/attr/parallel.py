"""Models that run in replicas on several devices, which cannot be recorded."""

from torch import nn

from captum_globenc.encoders.walk import every

__all__ = ["reject_replicas"]


def reject_replicas(*parts: object) -> None:
    """Reject `nn.DataParallel` over more than one device.

    It runs copies of its module in threads of their own, in which neither hooks nor torch functions of this
    thread's pass are seen. Over one device, or none, it calls the module itself.

    Args:
        parts: forward functions and models; those that are no modules are not looked into.

    Raises:
        ValueError: one of them holds such a module.
    """
    for part in parts:
        for module in every(part) if isinstance(part, nn.Module) else ():
            if isinstance(module, nn.DataParallel) and len(module.device_ids) > 1:
                raise ValueError(
                    f"nn.DataParallel runs replicas of {type(module.module).__name__} in threads on "
                    f"{len(module.device_ids)} devices, which cannot be recorded: pass the module that it "
                    "wraps, model.module, in the forward function too"
                )
