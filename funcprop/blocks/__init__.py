"""Blocks: layers made of layers, without new mathematics."""

from funcprop.blocks.attention import CrossAttention as CrossAttention
from funcprop.blocks.attention import SelfAttention as SelfAttention
from funcprop.blocks.bidirectional import Bidirectional as Bidirectional
from funcprop.blocks.block import Block as Block
from funcprop.blocks.gating import GEGLU as GEGLU
from funcprop.blocks.gating import GLU as GLU
from funcprop.blocks.gating import SwiGLU as SwiGLU
