"""torch's compiler comes when somebody compiles, as if it had been there from the beginning."""

import os
import subprocess
import sys

import pytest

BEGIN = """
import gc, sys
gc.disable()
from isolora.deferred_imports import defer_imports
defer_imports()
def loaded():
    return "torch._dynamo.convert_frame" in sys.modules
"""


def run(program: str, begin: str = BEGIN, **environment: str) -> list[str]:
    words = [sys.executable, "-c", f"{begin}\n{program}\ngc.freeze()"]
    return subprocess.run(words, capture_output=True, text=True, check=True, env=os.environ | environment).stdout.split()


TRAINED = """
import torch
from transformers.models.llama.modeling_llama import LlamaConfig, LlamaForCausalLM
sizes = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, vocab_size=32)
model = LlamaForCausalLM(LlamaConfig(**sizes))
model.gradient_checkpointing_enable()
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
ids = torch.arange(8)[None]
for _ in range(2):
    model(input_ids=ids, labels=ids).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
print(loaded(), "sympy" in sys.modules, bool(model.lm_head.weight.grad.abs().sum()))
"""


def test_a_model_is_trained_without_the_compiler() -> None:
    assert run(TRAINED) == ["False", "False", "True"]


COMPILED = """
import torch
import torch._dynamo
compiler = torch._dynamo
seen = []
@torch.compiler.disable
def left(x):
    seen.append(torch.compiler.is_compiling())
    return x + 1
@torch._dynamo.allow_in_graph
def allowed(x):
    return x * 3
print(loaded(), float(left(torch.ones(()))))
def both(x):
    return allowed(left(x) * 2)
compiled = torch.compile(both, backend="eager")
print(loaded(), compiler is torch._dynamo, float(compiled(torch.ones(()))), seen == [False, False])
print(torch._dynamo.trace_rules.is_callable_allowed(allowed))
"""


def test_what_was_decorated_before_the_compiler_came_is_as_it_asked_to_be() -> None:
    assert run(COMPILED) == ["False", "2.0", "True", "True", "12.0", "True", "True"]


SUBMODULE = """
import torch._dynamo.config
print(loaded())
from torch._dynamo.source import ConstantSource
import torch._dynamo.source as again
print(loaded(), again.ConstantSource is ConstantSource)
print(again is sys.modules["torch._dynamo.source"], hasattr(torch._dynamo, "reset"))
print(hasattr(torch._dynamo, "nothing_of_the_kind"), hasattr(torch._dynamo, "__nothing__"))
"""


def test_a_module_of_the_compiler_brings_all_of_it() -> None:
    assert run(SUBMODULE) == ["False", *["True"] * 4, "False", "False"]


@pytest.mark.parametrize(("begin", "ranks"), [("import gc, sys\nimport torch\n", "1"), ("import gc, sys\n", "2")])
def test_nothing_is_deferred_behind_torch_or_for_several_processes(begin: str, ranks: str) -> None:
    """Whoever launches several may cut a model over them, and needs distributed tensors."""
    program = """
from isolora.deferred_imports import defer_imports
defer_imports()
import torch._dynamo
print(type(torch._dynamo).__name__, "torch._dynamo.convert_frame" in sys.modules)
"""
    assert run(program, begin, WORLD_SIZE=ranks) == ["module", "True"]


def test_transformers_reads_its_models_files_once() -> None:
    program = """
import transformers.models
from transformers.utils.import_utils import create_import_structure_from_path
known = create_import_structure_from_path.cache_info()
print(known.maxsize, known.hits > 400, known.misses < 1.5 * known.hits)
"""
    assert run(program) == ["None", "True", "True"]


def test_a_price_is_told_without_the_compiler() -> None:
    program = """
from isolora.config import RunConfig
from isolora.cost.estimate import cost
print(cost(RunConfig(model="nano-55k", training={"steps": 1}), (2, 32)).flops.total > 0, loaded())
"""
    assert run(program) == ["True", "False"]
