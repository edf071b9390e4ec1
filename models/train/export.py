"""Writes the trained weights as a Step-3 checkpoint: config.json and model.safetensors."""

import argparse
import json
import pathlib

import torch
from safetensors.torch import save_file

from fp8 import BLOCK, is_stored_in_fp8, quantise
from model import Config


def step3_config(c: Config) -> dict:
    return {
        "architectures": ["Step3TextForCausalLM"],
        "model_type": "step3_text",
        "hidden_size": c.hidden_size,
        "intermediate_size": c.intermediate_size,
        "num_attention_heads": c.num_heads,
        "num_attention_groups": 1,
        "num_hidden_layers": c.num_layers,
        "max_seq_len": c.context,
        "max_position_embedding": c.context,
        "vocab_size": c.vocab_size,
        "rms_norm_eps": c.eps,
        "moe_intermediate_size": c.expert_dim,
        "moe_num_experts": c.num_experts,
        "moe_top_k": c.top_k,
        "moe_layers_enum": ",".join(str(i) for i in range(c.num_layers) if c.is_moe(i)),
        "norm_expert_weight": False,
        "rope_theta": c.rope_theta,
        "rope_scaling": None,
        "share_expert_dim": c.share_expert_dim,
        "share_q_dim": c.share_q_dim,
        "head_dim": c.head_dim,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "torch_dtype": "bfloat16",
        "quantization_config": {
            "quant_method": "fp8",
            "fmt": "e4m3",
            "weight_block_size": [BLOCK, BLOCK],
            "activation_scheme": "dynamic",
        },
    }


def stored(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    out = {}
    for name, weight in weights.items():
        if is_stored_in_fp8(name):
            out[name], out[name + "_scale_inv"] = quantise(weight)
        else:
            out[name] = weight.bfloat16()
    return {n: t.contiguous() for n, t in out.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=pathlib.Path, help="weights.pt of train.py; without it only config.json")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    config = Config()
    if args.weights:
        saved = torch.load(args.weights, weights_only=True)
        config = Config(**saved["config"])
        save_file(stored(saved["weights"]), args.out / "model.safetensors", metadata={"format": "pt"})
        print((args.out / "model.safetensors").stat().st_size / 2**20, "MiB")
    (args.out / "config.json").write_text(json.dumps(step3_config(config), indent=2) + "\n")


if __name__ == "__main__":
    main()
