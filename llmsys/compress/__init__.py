"""Tensors of large models in fewer bits: one container, exact codecs, video engines, and the tensor codec `tq`."""

from llmsys.compress.errors import BadBitstream, CodecError, EngineMissing, TargetUnreachable, UnsupportedValues

__all__ = ["BadBitstream", "CodecError", "EngineMissing", "TargetUnreachable", "UnsupportedValues"]
