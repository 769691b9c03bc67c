from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions
from pathlib import Path

import pytest

import runtime
from runtime.backends import open_backend
from runtime.bundle.bundle import EMBEDDED, open_bundle
from runtime.errors import BackendUnavailable, MissingPackage
from runtime.process import packages
from runtime.process.packages import EXTRAS, check_one_onnxruntime, how_to_install, missing

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[><=; \[]", line)[0].lower() for line in requirements}


def test_every_extra_that_is_named_exists_and_brings_the_module() -> None:
    extras = {name: names(lines) for name, lines in PROJECT["optional-dependencies"].items()}
    known = packages_distributions()
    for module, extra in EXTRAS.items():
        distributions = {name.lower() for name in known.get(module, [module])}
        distributions |= {module, module.replace("_", "-")}
        if module == "cuda":
            distributions = {"cuda-core", "cuda-bindings"}
        assert distributions & extras[extra], f"{module} is not in [{extra}]"


def test_no_extra_brings_two_onnx_runtimes_and_none_is_in_the_core() -> None:
    core = names(PROJECT["dependencies"])
    for name, lines in PROJECT["optional-dependencies"].items():
        both = (core | names(lines)) & set(packages.ONNXRUNTIMES)
        assert len(both) == (name in ("cpu", "gpu")), f"[{name}] brings {both}"


def test_a_missing_package_is_named_with_what_installs_it() -> None:
    why = missing(ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn"))
    assert isinstance(why, MissingPackage)
    assert why.exit_code == 5
    assert "torch" in str(why) and "pip install 'medsam2-runtime[export]'" in str(why)
    assert how_to_install("abacus") == "pip install abacus"
    assert "[gpu]" in how_to_install("onnxruntime")


@pytest.mark.parametrize("name", ["runtime.absent", "export", None])
def test_a_module_of_ours_that_is_missing_is_a_fault_of_ours(name: str | None) -> None:
    assert missing(ModuleNotFoundError("absent", name=name)) is None


def test_two_onnx_runtimes_are_refused_before_one_is_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def version(name: str) -> str:
        if name in there:
            return "1.2.3"
        raise PackageNotFoundError(name)

    monkeypatch.setattr(packages, "version", version)
    for there in (["onnxruntime"], ["onnxruntime-gpu"], []):  # noqa: B007 - read by version
        check_one_onnxruntime()
    there = ["onnxruntime", "onnxruntime-gpu"]
    with pytest.raises(BackendUnavailable, match="pip uninstall -y onnxruntime onnxruntime-gpu,"):
        open_backend("ort", open_bundle(EMBEDDED))


def test_the_version_is_one() -> None:
    assert PROJECT["dynamic"] == ["version"]
    cited = (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"\nversion: {runtime.__version__}\n" in cited
