"""Checkpoint folders in the released format: written from a trained model, and read back as what the bytes say.

    config.json             sizes and rules (nested text_config), quantization_config
    model.safetensors       see quantise.py for the formats
    tokenizer.json, tokenizer_config.json, generation_config.json
"""
import json
import os
import re

import numpy as np
import torch

import quantise
import tokenizer as family
from model import Model

QUANTIZATION = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [32, 32],
                "scale_fmt": "ue8m0", "expert_dtype": "fp4"}
FOREIGN = ("mtp.", "vision.", "aligner.", "image_")  # tensors of other parts of the family's models
FLOATS = {"F32": torch.float32, "BF16": torch.bfloat16}
TYPES = {**FLOATS, "I32": torch.int32, "I64": torch.int64}  # others are read as bytes

# --- writing -----------------------------------------------------------------------------------------------------


def tensor_names(path, weight):
    """Names in the file of what one Weight holds: one, or one per expert."""
    name = path if weight.bare else path + ".weight"
    if not weight.stacked:
        return [name]
    before, after = name.split(".experts.")
    return [f"{before}.experts.{e}.{after}" for e in range(weight.values.shape[0])]


def _as_bytes(tensor):
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def _encode(name, values, storage):
    """One tensor -> (name, dtype, shape, bytes), with its scales behind it where it has some."""
    if storage == "f32":
        return [(name, "F32", values.shape, _as_bytes(values))]
    if storage == "bf16":
        return [(name, "BF16", values.shape, _as_bytes(values.to(torch.bfloat16)))]
    pack = {"fp8": quantise.pack_fp8, "fp4": quantise.pack_fp4, "rows": quantise.pack_rows}[storage]
    codes, scales = pack(values)
    scale_name = name.removesuffix(".weight") + ".scale"
    return [(name, "I8" if storage == "fp4" else "F8_E4M3", codes.shape, _as_bytes(codes)),
            (scale_name, "F8_E8M0", scales.shape, _as_bytes(scales))]


def _encode_all(model):
    for path, weight in model.weights():
        values = weight.values.detach()
        parts = values if weight.stacked else [values]
        for name, part in zip(tensor_names(path, weight), parts):
            yield from _encode(name, part, weight.storage)


def write_safetensors(path, tensors):
    """tensors: list of (name, dtype, shape, bytes)."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, dtype, shape, data in tensors:
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little"))
        f.write(text)
        for *_, data in tensors:
            f.write(data)


def _write_json(path, value):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=False, indent=1)
        f.write("\n")


def save(model, tokenizer, folder):
    """Writes everything that engramd needs. An existing checkpoint in the folder is replaced."""
    os.makedirs(folder, exist_ok=True)
    ids = {"bos_token_id": family.BOS_ID, "eos_token_id": family.EOS_ID,
           "pad_token_id": family.PAD_ID}
    _write_json(os.path.join(folder, "config.json"), {
        "architectures": ["DeepseekV41ForCausalLM"], "model_type": "deepseek_v41", "dtype": "bfloat16", **ids,
        "text_config": {**model.config, "model_type": "deepseek_v41_text"}, "quantization_config": QUANTIZATION})
    _write_json(os.path.join(folder, "generation_config.json"), {"default_thinking": False, "do_sample": False, **ids})
    _write_json(os.path.join(folder, "tokenizer_config.json"),
                family.config_file(model.config["max_position_embeddings"]))
    tokenizer.save(os.path.join(folder, "tokenizer.json"))
    write_safetensors(os.path.join(folder, "model.safetensors"), list(_encode_all(model)))


# --- reading -----------------------------------------------------------------------------------------------------


def read_safetensors(path):
    """name -> (dtype, tensor) of one file; formats of weights come as uint8."""
    with open(path, "rb") as f:
        header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
        start = f.tell()
    data = np.memmap(path, np.uint8, "r", start) if os.path.getsize(path) > start else np.zeros(0, np.uint8)
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            values = torch.empty(entry["shape"], dtype=TYPES.get(entry["dtype"], torch.uint8))
            if begin < end:
                values.view(-1).view(torch.uint8).copy_(torch.from_numpy(np.array(data[begin:end])))
            tensors[name] = entry["dtype"], values
    return tensors


def _read_folder(folder):
    tensors = {}
    for file in sorted(os.listdir(folder)):
        if file.endswith(".safetensors"):
            tensors.update(read_safetensors(os.path.join(folder, file)))
    # transformers puts "model." in front and calls the last matrix lm_head
    names = {name: re.sub(r"^model\.", "", name).replace("lm_head.", "head.") for name in tensors}
    return {names[name]: value for name, value in tensors.items() if not names[name].startswith(FOREIGN)}


def _decode(tensors, name, storage):
    """The values of one tensor; takes it and its scales out of tensors."""
    dtype, codes = tensors.pop(name)
    scales = tensors.pop(name.removesuffix(".weight") + ".scale", None) if name.endswith(".weight") else None
    if dtype in FLOATS:
        return codes.to(torch.float32)
    unpack = {"fp8": quantise.unpack_fp8, "fp4": quantise.unpack_fp4, "rows": quantise.unpack_rows}[storage]
    return unpack(codes, scales[1])


def read_config(folder):
    """The text part of config.json."""
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    return config.get("text_config", config)


@torch.no_grad()
def load(folder):
    """A Model whose values are those that the files hold. Fails on a tensor that is missing or left over."""
    model = Model(read_config(folder)).eval()
    tensors = _read_folder(folder)
    for path, weight in model.weights():
        parts = [_decode(tensors, name, weight.storage) for name in tensor_names(path, weight)]
        weight.values.copy_(torch.stack(parts) if weight.stacked else parts[0])
    if tensors:
        raise ValueError(f"{folder}: no place for {', '.join(sorted(tensors)[:3])}")
    return model
