"""UniPT: against loops over single tokens, on encoders and encoder-decoders, and while text is written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sherl.errors import SpecError
from sherl.methods import Tuned, UniptConfig
from sherl.methods.parallel import Context, ParallelNetwork
from tests.sherl import reference_unipt as reference
from tests.sherl.texts import stirred, text_batch, text_model
from tests.sherl.tiny import tiny_backbone, tiny_batch, wider

KEEP = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 1, 1, 1]]).bool()


def network(*, causal: bool, with_context: bool = False, seed: int = 0) -> ParallelNetwork:
    torch.manual_seed(seed)
    made = ParallelNetwork([12] * 4, 6, causal=causal, with_context=with_context).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.5)
    return made


def features(count: int = 4, *, width: int = 12, tokens: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(3, tokens, width, generator=generator, dtype=torch.float64) for _ in range(count)]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("with_context", [False, True])
def test_equals_loops_over_single_tokens(causal: bool, with_context: bool) -> None:
    made, states = network(causal=causal, with_context=with_context), features()
    source_keep = KEEP.flip(1)
    source = features(1, width=6)[0]
    context = Context(source, source_keep) if with_context else None
    out = made(states, KEEP, context).detach().numpy()
    plain = {name: value.detach().numpy() for name, value in made.state_dict().items()}
    for row in range(3):
        given = reference.Source(list(source[row].numpy()), source_keep[row].tolist()) if with_context else None
        expected = reference.network(
            [state[row].numpy() for state in states], KEEP[row].tolist(), plain, causal=causal, source=given
        )
        for token in range(5):
            if KEEP[row, token]:
                np.testing.assert_allclose(out[row, token], expected[token], rtol=1e-9, atol=1e-10)


def test_a_causal_stack_sees_no_later_token() -> None:
    made, states = network(causal=True), features()
    out = made(states, KEEP[:1].expand(3, -1))
    for place in range(1, 5):
        changed = [state.clone() for state in states]
        for state in changed:
            state[:, place:] += 1.0
        again = made(changed, KEEP[:1].expand(3, -1))
        assert torch.equal(again[:, :place], out[:, :place])
        assert not torch.allclose(again[:, place:], out[:, place:])
    acausal = network(causal=False)
    changed = [torch.cat([state[:, :4], state[:, 4:] + 1.0], dim=1) for state in states]
    assert not torch.allclose(acausal(changed, KEEP)[0, :4], acausal(states, KEEP)[0, :4])


def test_attention_of_nothing_leaves_the_layer_itself() -> None:
    made, states = network(causal=False), features()
    out = made(states, torch.zeros_like(KEEP))
    assert torch.isfinite(out).all()
    out.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in made.parameters() if p.grad is not None)


@pytest.mark.parametrize("kept", [None, "last:1", (0,)])
@pytest.mark.parametrize("output", ["replaced", "added"])
def test_what_an_encoder_gives(kept: Any, output: str) -> None:
    backbone, batch = tiny_backbone(), tiny_batch()
    mask = batch["attention_mask"][:, None, None, :].bool()
    with torch.no_grad():
        states = [backbone.model.embeddings(input_ids=batch["input_ids"], token_type_ids=batch["token_type_ids"])]
        for block in backbone.blocks:
            states.append(block(states[-1], mask))
    chosen = {None: states, "last:1": [states[0], states[3]], (0,): [states[0], states[1], states[3]]}[kept]
    tuned = UniptConfig(kept_layers=kept, output=output).apply(backbone, seed=0)
    parallel = tuned.added["parallel"]
    merged = parallel["stack"](chosen, batch["attention_mask"].bool())  # type: ignore[index]
    expected = parallel["up"](merged.relu())  # type: ignore[index]
    torch.testing.assert_close(tuned(batch), expected if output == "replaced" else states[-1] + expected)


def with_targets(tuned: Tuned, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(tuned.backbone.teaching(batch))


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_a_decoder_reads_the_encoders_result_and_no_later_target(name: str) -> None:
    model = stirred(text_model("unipt", name))
    tuned = model.tuned
    batch = with_targets(tuned, text_batch())
    with torch.no_grad():
        out = tuned(batch)
        torch.testing.assert_close(tuned({**wider(batch, 4)}), out, atol=1e-5, rtol=1e-5)
        later = {**batch, "decoder_input_ids": batch["decoder_input_ids"].clone()}
        later["decoder_input_ids"][:, 2:] = 5
        torch.testing.assert_close(tuned(later)[:, :2], out[:, :2], atol=1e-5, rtol=1e-5)
        assert not torch.allclose(tuned(later)[:, 2:], out[:, 2:], atol=1e-3)
    out = tuned(batch)
    out.square().sum().backward()
    encoder = {name: p for name, p in tuned.trainable().items() if "encoder." in name}
    assert encoder
    # all of it reaches the decoder
    assert all(p.grad is not None and p.grad.any() for p in encoder.values())


@pytest.mark.parametrize("name", ["t5", "flan", "bart", "pegasus"])
def test_writing_is_the_same_with_and_without_a_cache(name: str) -> None:
    model = stirred(text_model({"name": "unipt", "output": "added"}, name))
    tuned, batch = model.tuned, text_batch()
    written = [tuned.generate(batch, 4, whole_length=True, use_cache=use_cache) for use_cache in (True, False)]
    assert torch.equal(*written)
    prefix = tuned.backbone._start(batch["input_ids"])  # type: ignore[attr-defined]
    for _ in range(4):  # each token from a pass over all before it
        with torch.no_grad():
            hidden = tuned({**batch, "decoder_input_ids": prefix})
        best = tuned.backbone.vocabulary_logits(hidden[:, -1:]).argmax(dim=-1)
        prefix = torch.cat([prefix, best], dim=1)
    real = written[0] != -100
    assert real.any()
    assert torch.equal(written[0][real], prefix[:, 1:][real])


def test_bad_settings() -> None:
    with pytest.raises(SpecError) as caught:
        UniptConfig(reduction_factor=0, kept_layers="evry:2", output="replace")
    for part in ("reduction_factor must be", "Did you mean 'every'", "output must be one of replaced, added"):
        assert part in str(caught.value)
    backbone = tiny_backbone()
    with pytest.raises(SpecError, match="reduction_factor 17 is over the backbone's width: allowed are 1 to 16"):
        UniptConfig(reduction_factor=17).apply(backbone, seed=0)
    with pytest.raises(SpecError, match="Method unipt: kept_layers"):
        UniptConfig(kept_layers=(7,)).apply(backbone, seed=0)
    assert backbone.method_name is None


def test_backward_keeps_no_activation_of_the_backbone() -> None:
    tuned = UniptConfig().apply(tiny_backbone(), seed=0).train()
    seen: list[Tensor] = []
    for block in tuned.backbone.blocks:
        block.register_forward_hook(lambda _m, _i, output: seen.append(output))
    tuned(tiny_batch())
    assert len(seen) == 3
    assert not any(tensor.requires_grad for tensor in seen)
    assert torch.is_grad_enabled()
