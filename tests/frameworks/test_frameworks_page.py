"""The numbers of cases in docs/frameworks.md are those of the tests."""

import re
import subprocess
import sys
from collections import Counter

import pytest

from tests.support import ROOT, TESTS

for framework in ("optax", "flax", "equinox", "haiku", "chex", "jmp", "jaxtyping", "torch"):
    pytest.importorskip(framework)

EXACT = "test_state_comes_back_exactly_without_a_template"
REFUSED = "test_what_cannot_be_carried_is_refused_by_path"
CASES = {  # exact, from `like`, refused
    "Python": (
        "test_tree",
        ["test_a_value_comes_back_with_its_type_and_bits", "test_a_container_comes_back_as_itself"],
        [],
        ["test_save_refuses_by_path_and_says_what_to_do"],
    ),
    "numpy, ml_dtypes": (
        "test_leaves",
        [
            "test_a_numpy_array_comes_back",
            "test_every_bit_pattern_of_ml_dtypes_comes_back",
            "test_nan_payloads_and_negative_zeros_come_back",
            "test_a_numpy_scalar_comes_back",
            "test_structured_dtypes_come_back",
            "test_a_masked_array_comes_back",
            "test_a_dtype_comes_back_as_a_value",
        ],
        [],
        ["test_save_refuses_an_array_by_path"],
    ),
    "jax": (
        "test_leaves",
        [
            "test_every_dtype_that_jax_takes_comes_back",
            "test_64_bits_stay_64_bits_with_and_without_x64",
            "test_weak_types_stay_weak",
            "test_commitment_comes_back",
            "test_keys_come_back_with_their_implementation",
        ],
        [],
        [
            "test_save_refuses_what_is_no_array_any_more",
            "test_an_array_that_is_donated_during_the_save_is_refused",
            "test_save_refuses_a_traced_value",
            "test_save_refuses_a_reference_and_a_placed_struct",
        ],
    ),
    "Optax 0.2.8": (
        "test_optax",
        ["test_a_state_comes_back_exactly_with_no_template"],
        [],
        ["test_a_transformation_is_refused_and_its_state_is_not"],
    ),
    "flax linen": (
        "test_flax",
        [EXACT],
        ["test_what_the_framework_means_to_be_supplied_comes_from_like"],
        [REFUSED],
    ),
    "flax nnx": ("test_nnx", [EXACT], [], [REFUSED]),
    "equinox": (
        "test_equinox",
        [EXACT, "test_every_layer_comes_back_exactly"],
        ["test_what_holds_code_comes_from_like"],
        [REFUSED],
    ),
    "Haiku, chex, jmp, jaxtyping": ("test_haiku_chex", [EXACT], [], [REFUSED]),
    "PyTorch": (
        "test_torch",
        [
            EXACT,
            "test_every_dtype_comes_back_bit_for_bit_in_every_shape",
            "test_training_goes_on_bit_for_bit",
            "test_a_schedule_goes_on_bit_for_bit",
        ],
        [],
        [REFUSED, "test_no_quantized_dtype_is_carried"],
    ),
}


@pytest.mark.whole  # collecting takes 16 s of CPU
def test_the_numbers_of_the_page_are_those_of_the_tests():
    files = sorted({str(next(TESTS.rglob(f"{file}.py"))) for file, *_ in CASES.values()})
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "", "-n", "0", *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = Counter(
        re.findall(r"^tests/(?:\w+/)*(\w+)\.py::(?:\w+::)?(\w+)", done.stdout, re.MULTILINE)
    )
    page = (ROOT / "docs" / "frameworks.md").read_text().partition("\n## Cases\n")[2]
    lines = [line for line in page.splitlines() if line.startswith("| ")][1:]
    rows = [[cell.strip() for cell in line.split("|")[1:]] for line in lines]
    said = {row[0]: [int(cell or 0) for cell in (row[2], row[4], row[6])] for row in rows}
    assert said == {
        name: [sum(found[file, test] for test in tests) for tests in groups]
        for name, (file, *groups) in CASES.items()
    }
