"""Reads a stored Step-3 checkpoint back into the model, block FP8 dequantised."""

import json
import pathlib

import torch
from safetensors.torch import load_file

from fp8 import dequantise
from model import Config, Step3


def read_config(folder: pathlib.Path) -> Config:
    c = json.loads((folder / "config.json").read_text())
    config = Config(
        vocab_size=c["vocab_size"],
        hidden_size=c["hidden_size"],
        num_layers=c["num_hidden_layers"],
        num_heads=c["num_attention_heads"],
        head_dim=c["head_dim"],
        share_q_dim=c["share_q_dim"],
        intermediate_size=c["intermediate_size"],
        num_experts=c["moe_num_experts"],
        top_k=c["moe_top_k"],
        expert_dim=c["moe_intermediate_size"],
        share_expert_dim=c["share_expert_dim"],
        context=c["max_position_embedding"],
        rope_theta=c["rope_theta"],
        eps=c["rms_norm_eps"],
    )
    moe = ",".join(str(i) for i in range(config.num_layers) if config.is_moe(i))
    assert c["moe_layers_enum"] == moe, "this trainer makes the first and last layer dense"
    return config


def read_checkpoint(folder: pathlib.Path, dtype: torch.dtype) -> Step3:
    tensors = load_file(folder / "model.safetensors")
    weights = {}
    for name, tensor in tensors.items():
        if name.endswith("_scale_inv"):
            continue
        scale = tensors.get(name + "_scale_inv")
        weights[name] = tensor.to(dtype) if scale is None else dequantise(tensor, scale, dtype)
    model = Step3(read_config(folder)).to(dtype)
    model.load_state_dict(weights)
    return model.eval()
