"""The kernels that vLLM's norms take on a CPU, in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.long,
    pytest.mark.ci,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]

COMPARED = """
import json, torch
from vllm import ir
import vllm.kernels
from tasks.engines import vllm_kernels
vllm_kernels.use_kernels()
vllm_kernels.use_kernels()
ir.set_default_torch_wrap(False)

def exact(x, weight):
    x = x.double()
    return weight.double() * x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()

def apart(found, expected):
    return float((found.double() - expected).abs().max() / expected.abs().max())

rows = []
for kind in (torch.float32, torch.bfloat16):
    for width, strided in ((64, False), (576, False), (40, False), (64, True)):
        torch.manual_seed(width)
        x, residual = torch.randn(2, 7, 2 * width).to(kind), torch.randn(7, width).to(kind)
        x = x[0, :, :width] if strided else x[0, :, :width].contiguous()
        weight = torch.randn(width).to(kind)
        whole = x.double() + residual.double()
        norm = apart(ir.ops.rms_norm(x, weight, 1e-5), exact(x, weight))
        taken = ir.ops.rms_norm.dispatch(x, weight, 1e-5).provider
        out, total = ir.ops.fused_add_rms_norm.maybe_inplace(x.clone(), residual.clone(), weight, 1e-5)
        added = apart(out, exact(whole, weight)), apart(total, whole)
        rows.append([str(kind), width, strided, taken, norm, *added])
print(json.dumps(rows))
"""


def test_norms_are_those_of_float64_in_every_shape_and_by_the_kernel_where_it_takes_them() -> None:
    ran = subprocess.run([sys.executable, "-c", COMPARED], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    rows = json.loads(ran.stdout.splitlines()[-1])
    assert len(rows) == 8
    for kind, width, strided, taken, *apart in rows:
        assert taken == ("native" if width == 40 or strided else "cpu_kernel")
        assert max(apart) < (1e-5 if "float32" in kind else 1e-2)
