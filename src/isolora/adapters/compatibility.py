"""What programs that serve adapters do not take, told before an adapter is handed over to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from isolora.json_types import JsonMapping
from isolora.methods.adapter_files import saved_settings, saved_tensors

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM's --max-lora-rank takes (vllm/config/lora.py); 16 is its default."""
VLLM_DEFAULT_RANK = 16
PAIR = (".lora_A.weight", ".lora_B.weight", ".lora_embedding_A", ".lora_embedding_B")
INSTEAD = "export --to merged works there"


def compatibility_warnings(folder: Path) -> list[str]:
    """One sentence for each reason why vLLM or llama.cpp would refuse PEFT's files in `folder`, or read them wrongly."""
    config, names = saved_settings(folder), list(saved_tensors(folder))
    if config.get("peft_type") != "LORA":
        return [f"vLLM and llama.cpp read LoRA adapters only, not {config.get('peft_type')}"]
    found = {"vLLM": list(_vllm(config, names)), "llama.cpp": list(_llama_cpp(config, names))}
    return [f"{program} {reason}" for program, reasons in found.items() for reason in reasons]


def _vllm(config: JsonMapping, names: Iterable[str]) -> Iterator[str]:
    """vllm/lora/peft_helper.py, `validate_legal`; scaling is one number for all layers (`vllm_lora_scaling_factor`)."""
    if config.get("modules_to_save"):
        yield f"refuses modules_to_save ({', '.join(config['modules_to_save'])})"
    if config.get("use_dora"):
        yield "refuses DoRA"
    if config.get("bias", "none") != "none":
        yield f"refuses trained biases (bias={config['bias']})"
    rank = max([config["r"], *(config.get("rank_pattern") or {}).values()])
    if rank > VLLM_RANKS[-1]:
        yield f"refuses rank {rank} (at most {VLLM_RANKS[-1]})"
    elif rank > VLLM_DEFAULT_RANK:
        yield f"refuses rank {rank} unless started with --max-lora-rank {min(r for r in VLLM_RANKS if r >= rank)}"
    if config.get("rank_pattern") or config.get("alpha_pattern"):
        yield "scales every layer alike and so reads rank_pattern and alpha_pattern wrongly"
    if any("lora_embedding" in name for name in names):
        yield "takes adapted embeddings only for models that declare them"


def _llama_cpp(config: JsonMapping, names: Iterable[str]) -> Iterator[str]:
    """convert_lora_to_gguf.py, `get_tensors`; it keeps lora_alpha and the program divides by each pair's rank."""
    odd = [name for name in names if not name.endswith(PAIR) and not name.endswith(".base_layer.weight")]
    if odd:
        yield f"refuses tensors beside lora_A and lora_B ({odd[0]})"
    if config.get("use_rslora") or config.get("alpha_pattern"):
        yield "scales by alpha/rank and so reads use_rslora and alpha_pattern wrongly"
