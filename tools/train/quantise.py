"""The number formats of the checkpoint: how values are rounded to them, packed into bytes, and read back.

Three formats of weights (a pair of codes and power-of-two scales each) and the rounding that the model itself does to
what it caches. Scales are stored as UE8M0: one byte b that means 2**(b - 127).

    fp8   dense matrices   E4M3 codes [out, in]         one scale per 32x32 tile   [ceil(out/32), ceil(in/32)]
    fp4   routed experts   two E2M1 codes per byte,     one scale per row and 32 columns
                           low nibble first [out, in/2]                            [out, in/32]
    rows  Engram tables    E4M3 codes [rows, width]     one scale per row and 32 columns
                                                                                   [rows, width/32]
"""
import torch
import torch.nn.functional as F

E4M3_MAX = 448.0
E2M1_MAX = 6.0
BLOCK = 32
SMALLEST = 2.0 ** -100  # stands in for the magnitude of a block of zeros, so that its scale is a valid byte

# --- rounding ----------------------------------------------------------------------------------------------------


def round_e4m3(x):
    """x rounded to the nearest E4M3 value (ties to even), saturated at +-448."""
    return x.clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn).to(torch.float32)


def round_e2m1(x):
    """x rounded to the nearest of 0, 0.5, 1, 1.5, 2, 3, 4, 6 with its sign, ties to the even code, saturated."""
    size = x.abs().clamp(max=E2M1_MAX)
    step = torch.where(size < 2, 0.5, torch.where(size < 4, 1.0, 2.0))
    return torch.copysign(torch.round(size / step) * step, x)


def power_of_two_above(x):
    """The smallest power of two that is not below x, elementwise; x > 0."""
    fraction, exponent = torch.frexp(x)  # x = fraction * 2**exponent, 0.5 <= fraction < 1
    exponent = torch.where(fraction == 0.5, exponent - 1, exponent)
    return torch.ldexp(torch.ones_like(x), exponent)


def straight_through(rounding, x):
    """rounding(x) in the forward pass; the gradient passes as if there were none."""
    if not (torch.is_grad_enabled() and x.requires_grad):
        return rounding(x)
    with torch.no_grad():
        change = rounding(x) - x
    return x + change


# --- what the model rounds while it runs -------------------------------------------------------------------------


def _by_block(x, block, rounding):
    """rounding([..., blocks, block]) of x [..., n]; x itself where n is no multiple of the block: the family's way."""
    if x.shape[-1] % block:
        return x
    return rounding(x.unflatten(-1, (-1, block))).flatten(-2)


def round_window_kv(x):
    """Keys of the window: E4M3, one power-of-two scale per 32 channels."""
    def rounding(y):
        size = y.abs().amax(-1, keepdim=True).clamp(min=1e-4)
        scale = power_of_two_above(size * (torch.ones(()) / E4M3_MAX))
        return round_e4m3(y / scale) * scale
    return _by_block(x, 32, rounding)


def round_compressed_kv(x):
    """Compressed keys: E2M1, one E4M3 scale per 16 channels."""
    def rounding(y):
        size = y.abs().amax(-1, keepdim=True).clamp(min=E2M1_MAX * 2.0 ** -9)
        scale = round_e4m3(size / E2M1_MAX)
        return round_e2m1(y / scale) * scale
    return _by_block(x, 16, rounding)


def round_index(x):
    """Keys and queries of the indexer: E2M1, one power-of-two scale per 32 channels."""
    def rounding(y):
        size = y.abs().amax(-1, keepdim=True).clamp(min=E2M1_MAX * 2.0 ** -126)
        scale = power_of_two_above(size * (torch.ones(()) / E2M1_MAX))
        return round_e2m1(y / scale) * scale
    return _by_block(x, 32, rounding)


# --- weights -----------------------------------------------------------------------------------------------------


def _tiles(w):
    """w [out, in] as [out tiles, 32, in tiles, 32], zeros where a tile sticks out."""
    out_dim, in_dim = w.shape
    padded = F.pad(w, (0, -in_dim % BLOCK, 0, -out_dim % BLOCK))
    return padded.unflatten(1, (-1, BLOCK)).unflatten(0, (-1, BLOCK))


def _untile(tiles, shape):
    return tiles.flatten(2).flatten(0, 1)[:shape[0], :shape[1]]


def _scale(blocks, dims, largest):
    return power_of_two_above(blocks.abs().amax(dims, keepdim=True).clamp(min=SMALLEST) / largest)


def scale_bytes(scale):
    """Powers of two as UE8M0."""
    _, exponent = torch.frexp(scale)
    return (exponent - 1 + 127).to(torch.uint8)


def scale_values(codes):
    """UE8M0 bytes as powers of two."""
    return torch.ldexp(torch.ones(codes.shape), codes.to(torch.int32) - 127)


def round_fp8(w):
    tiles = _tiles(w)
    scale = _scale(tiles, (1, 3), E4M3_MAX)
    return _untile(round_e4m3(tiles / scale) * scale, w.shape)


def round_fp4(w):
    """w [..., out, in]; in is a multiple of 32."""
    groups = w.unflatten(-1, (-1, BLOCK))
    scale = _scale(groups, -1, E2M1_MAX)
    return (round_e2m1(groups / scale) * scale).flatten(-2)


def round_rows(w):
    """w [..., width]; width is a multiple of 32."""
    groups = w.unflatten(-1, (-1, BLOCK))
    scale = _scale(groups, -1, E4M3_MAX)
    return (round_e4m3(groups / scale) * scale).flatten(-2)


def round_bf16(w):
    return w.to(torch.bfloat16).to(torch.float32)


def pack_fp8(w):
    """w [out, in] -> E4M3 codes [out, in] as uint8, scale bytes [ceil(out/32), ceil(in/32)]."""
    tiles = _tiles(w)
    scale = _scale(tiles, (1, 3), E4M3_MAX)
    codes = (tiles / scale).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn).view(torch.uint8)
    return _untile(codes, w.shape).contiguous(), scale_bytes(scale)[:, 0, :, 0].contiguous()


def pack_fp4(w):
    """w [out, in] -> two codes per byte [out, in/2] as uint8, scale bytes [out, in/32]."""
    groups = w.unflatten(-1, (-1, BLOCK))
    scale = _scale(groups, -1, E2M1_MAX)
    values = round_e2m1(groups / scale).flatten(-2)
    size = values.abs()
    code = torch.where(size < 2, size * 2, torch.where(size < 4, size + 2, size / 2 + 4)).to(torch.uint8)
    code |= torch.signbit(values).to(torch.uint8) << 3
    return code[:, 0::2] | (code[:, 1::2] << 4), scale_bytes(scale)[..., 0].contiguous()


def pack_rows(w):
    """w [rows, width] -> E4M3 codes [rows, width] as uint8, scale bytes [rows, width/32]."""
    groups = w.unflatten(-1, (-1, BLOCK))
    scale = _scale(groups, -1, E4M3_MAX)
    codes = (groups / scale).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn).view(torch.uint8)
    return codes.flatten(-2).contiguous(), scale_bytes(scale)[..., 0].contiguous()


def unpack_fp8(codes, scales):
    """The values of pack_fp8's bytes."""
    values = codes.view(torch.float8_e4m3fn).to(torch.float32)
    spread = scale_values(scales).repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
    return values * spread[:codes.shape[0], :codes.shape[1]]


def unpack_fp4(codes, scales):
    """The values of pack_fp4's bytes."""
    table = torch.tensor([0, .5, 1, 1.5, 2, 3, 4, 6, -0., -.5, -1, -1.5, -2, -3, -4, -6])
    nibbles = torch.stack([codes & 15, codes >> 4], -1).flatten(-2)
    return table[nibbles.long()] * scale_values(scales).repeat_interleave(BLOCK, 1)


def unpack_rows(codes, scales):
    """The values of pack_rows' bytes."""
    return codes.view(torch.float8_e4m3fn).to(torch.float32) * scale_values(scales).repeat_interleave(BLOCK, 1)
