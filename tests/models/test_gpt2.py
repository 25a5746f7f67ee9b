"""GPT-2's weights from Hugging Face: logits, loss and every gradient are those of PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcprop.comparison.programs import on_device
from funcprop.gradient import backprop
from funcprop.models import from_objective, gpt, gpt2_params, gpt_objective, to_objective

WIDTH, DEPTH, HEADS, VOCABULARY, LENGTH = 8, 2, 2, 13, 7


def made_up(seed=0):
    """A state dict of NumPy arrays, as the converter wants it."""
    rng = np.random.default_rng(seed)
    shapes = {"wte.weight": (VOCABULARY, WIDTH), "wpe.weight": (LENGTH, WIDTH)}
    for i in range(DEPTH):
        for name, (rows, columns) in {
            "attn.c_attn": (WIDTH, 3 * WIDTH),
            "attn.c_proj": (WIDTH, WIDTH),
            "mlp.c_fc": (WIDTH, 4 * WIDTH),
            "mlp.c_proj": (4 * WIDTH, WIDTH),
        }.items():
            shapes[f"h.{i}.{name}.weight"] = (rows, columns)
            shapes[f"h.{i}.{name}.bias"] = (columns,)
        for name in ("ln_1", "ln_2"):
            shapes[f"h.{i}.{name}.weight"] = shapes[f"h.{i}.{name}.bias"] = (WIDTH,)
    shapes["ln_f.weight"] = shapes["ln_f.bias"] = (WIDTH,)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def test_model_and_params_fit_and_each_block_has_its_weights():
    state = made_up()
    model, params = gpt2_params(state, HEADS)
    assert model == gpt(VOCABULARY, LENGTH, WIDTH, DEPTH, HEADS)
    wanted = jax.eval_shape(
        lambda key: model.init(key, jnp.zeros((1, 2), jnp.int32)), jax.random.key(0)
    )
    assert jax.tree.structure(params) == jax.tree.structure(wanted)
    assert [p.shape for p in jax.tree.leaves(params)] == [p.shape for p in jax.tree.leaves(wanted)]
    ((table, positions, (blocks,), last), _) = params[0]
    np.testing.assert_array_equal(table.w, state["wte.weight"])
    np.testing.assert_array_equal(positions.w, state["wpe.weight"])
    np.testing.assert_array_equal(last.scale, state["ln_f.weight"])
    (((_, attention),), ((norm, inner, _, outer),)) = blocks
    for i in range(DEPTH):
        np.testing.assert_array_equal(attention[0].w[i], state[f"h.{i}.attn.c_attn.weight"])
        np.testing.assert_array_equal(norm.bias[i], state[f"h.{i}.ln_2.bias"])
        np.testing.assert_array_equal(inner.b[i], state[f"h.{i}.mlp.c_fc.bias"])
        np.testing.assert_array_equal(outer.w[i], state[f"h.{i}.mlp.c_proj.weight"])


def test_names_with_the_prefix_masks_and_the_tied_head_are_understood():
    state = made_up()
    full = {f"transformer.{name}": value for name, value in state.items()}
    full["transformer.h.0.attn.bias"] = np.ones((1, 1, LENGTH, LENGTH), bool)
    full["transformer.h.1.attn.masked_bias"] = np.float32(-1e4)
    full["lm_head.weight"] = state["wte.weight"]
    given = [gpt2_params(s, HEADS)[1] for s in (state, full)]
    assert all(map(np.array_equal, *map(jax.tree.leaves, given)))


def changed(**new):
    names = {name.replace(".", "_"): name for name in (*made_up(), "lm_head.weight", "x.weight")}
    state = made_up() | {names[name]: value for name, value in new.items()}
    return {name: value for name, value in state.items() if value is not None}


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (changed(h_1_ln_1_bias=None), "h.1.ln_1.bias is missing"),
        (changed(wte_weight=None), "wte.weight is missing"),
        (changed(x_weight=np.ones(2)), "x.weight is unknown"),
        (changed(h_0_mlp_c_fc_bias=np.ones(3)), r"h.0.mlp.c_fc.bias is \[3\], wanted \[32\]"),
        (changed(h_1_attn_c_attn_weight=np.ones((24, 8))), r"is \[24, 8\], wanted \[8, 24\]"),
        (changed(wpe_weight=np.ones(7)), r"wpe.weight is \[7\], wanted two axes"),
        (changed(lm_head_weight=np.ones((13, 8))), "lm_head.weight is not wte.weight"),
        ({}, "it has no blocks"),
        ({"classifier.weight": np.ones(2)}, "wte.weight is missing.*classifier.weight is unknown"),
    ],
)
def test_what_is_no_gpt2_is_told_in_one_message(state, words):
    with pytest.raises(ValueError, match=words) as error:
        gpt2_params(state, HEADS)
    assert str(error.value).count("\n") == 0


def test_heads_follow_from_the_width_in_steps_of_64():
    with pytest.raises(ValueError, match="width is 8, no multiple of 64: give heads="):
        gpt2_params(made_up())


@pytest.fixture(scope="module")
def hugging_face():
    torch = pytest.importorskip("torch", reason="the reference is PyTorch's: pip install torch")
    transformers = pytest.importorskip(
        "transformers", reason="the reference is Hugging Face's: pip install transformers"
    )
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=LENGTH,
        n_embd=WIDTH,
        n_layer=DEPTH,
        n_head=HEADS,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = transformers.GPT2LMHeadModel(config).double()
    with torch.no_grad():
        for parameter in model.parameters():  # larger than at the start: nothing is hidden
            parameter.add_(0.3 * torch.randn_like(parameter))
    tokens = torch.randint(0, VOCABULARY, (3, LENGTH))
    output = model(tokens, labels=tokens)
    # their own loss casts to float32 on the way
    logits = output.logits[:, :-1].reshape(-1, VOCABULARY)
    loss = torch.nn.functional.cross_entropy(logits, tokens[:, 1:].reshape(-1))
    loss.backward()
    assert abs(loss.item() - output.loss.item()) < 1e-6
    return model, tokens.numpy(), output.logits.detach().numpy(), loss.item()


def test_logits_loss_and_every_gradient_are_those_of_pytorch(hugging_face):
    reference, tokens, wanted_logits, wanted_loss = hugging_face
    with jax.enable_x64(True):
        model, params = gpt2_params(reference.state_dict(), HEADS, jnp.float64)
        gradient = backprop(gpt_objective(model))

        def run(params, tokens):
            batch = (tokens[:, :-1], tokens[:, 1:])
            return model.forward(params, tokens)[0], gradient(to_objective(params), batch)

        logits, (loss, grads) = on_device(run, params, tokens)
        np.testing.assert_allclose(logits, wanted_logits, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(loss, wanted_loss, rtol=1e-12)
        given = {name: p.grad for name, p in reference.named_parameters()}
        _, wanted = gpt2_params(given, HEADS, jnp.float64)
        grads = from_objective(grads)
        assert jax.tree.structure(grads) == jax.tree.structure(wanted)
        for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(wanted), strict=True):
            assert np.linalg.norm(a - b) <= 1e-10 * np.linalg.norm(b)


def test_single_precision_and_bfloat16_tensors_are_read(hugging_face):
    reference = hugging_face[0]
    half = {name: value.bfloat16() for name, value in reference.state_dict().items()}
    _, params = gpt2_params(half, HEADS)
    _, exact = gpt2_params(reference.state_dict(), HEADS)
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(exact), strict=True):
        assert a.dtype == b.dtype == jnp.float32
        np.testing.assert_allclose(a, b, rtol=1e-2)
