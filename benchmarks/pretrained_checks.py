"""What a converted model does with real inputs, against what it would do were its weights misplaced.

MPNet finds the paraphrase; vision models' features name clothes far above chance, and for ONNX files their output equals the
graph's own; Whisper writes down what is said in captions; Gemma finds real text likelier than the same words shuffled.
Each check raises AssertionError where it does not hold, and gives what it saw.
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pretrained_vision as vision
import torch
import transformers
from pretrained_speech import SAMPLES_A_SECOND
from real_data import CAPTIONS, clothes
from torch import Tensor

STORY = "The old man walked down to the harbour every morning, and he watched the fishing boats come home."


def check(name: str, folder: Path) -> str:
    """What was seen.

    Raises:
        AssertionError: the model does not do what a pretrained one does.
    """
    if name in ("minilm", "mpnet"):
        return _paraphrases(folder)
    if name.startswith("gemma"):
        return _likelihood(folder)
    if name.startswith("whisper"):
        return _transcription(folder) if name.endswith((".en", "base")) else _finite(folder)
    told = _neighbours(folder, size=56 if name == "dinov2-small" else 96)
    if name == "dinov2-small":
        return f"{told}; {_as_graph(folder, vision.DINOV2, '/backbone/layernorm/Add_1_output_0', 'input_image')}"
    if name == "resnet-50-thin":
        return f"{told}; {_as_graph(folder, vision.RESNET, 'Relu_48:0', 'input:0')}"
    return told


def _paraphrases(folder: Path) -> str:
    model, tokenizer = (
        transformers.AutoModel.from_pretrained(folder),
        transformers.AutoTokenizer.from_pretrained(folder),
    )
    texts = ["A man is eating food.", "Someone is having a meal.", "The stock market fell sharply today."]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    pooled = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    alike, other = float(pooled[0] @ pooled[1]), float(pooled[0] @ pooled[2])
    assert alike > other + 0.3, f"a paraphrase has the similarity {alike:.2f}, another text {other:.2f}"
    return f"paraphrase {alike:.2f}, another text {other:.2f}"


def _likelihood(folder: Path) -> str:
    model, tokenizer = (
        transformers.AutoModelForCausalLM.from_pretrained(folder),
        transformers.AutoTokenizer.from_pretrained(folder),
    )
    words = STORY.split()
    random.Random(0).shuffle(words)
    losses = []
    for text in (STORY, " ".join(words)):
        ids = tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            losses.append(float(model(input_ids=ids, labels=ids).loss))
    told = f"nats a token: text {losses[0]:.2f}, its words shuffled {losses[1]:.2f}"
    assert losses[0] < 4.5, told
    assert losses[0] + 1 < losses[1], told
    return told


def _neighbours(folder: Path, *, size: int) -> str:
    """Of 200 pictures, how many have the class of the nearest of 600 others; chance is 0.1."""
    if folder.name.startswith(("efficientnet", "resnet")):
        import own_architectures  # noqa: F401 - importing registers its classes
    model = transformers.AutoModel.from_pretrained(folder).eval()
    data = clothes(folder, size=size)
    batch = data.train.batch(range(800))
    with torch.no_grad():
        outputs = [_pooled(model(pixel_values=pixels)) for pixels in batch["pixel_values"].split(50)]
    features = torch.nn.functional.normalize(torch.cat(outputs), dim=-1)
    nearest = (features[600:] @ features[:600].T).argmax(-1)
    right = float((batch["labels"][nearest] == batch["labels"][600:]).float().mean())
    assert right > 0.6, f"the nearest picture has the same class in {right:.2f} of cases; chance is 0.1"
    return f"the nearest picture has the same class in {right:.2f} of cases (chance 0.1)"


def _pooled(output: Any) -> Tensor:
    hidden: Tensor = output.last_hidden_state
    return hidden[:, 0] if hidden.ndim == 3 else hidden.mean(dim=(2, 3))


def _as_graph(folder: Path, file: Any, output: str, entry: str) -> str:
    """The largest difference between the model's last hidden state and what the ONNX graph itself computes."""
    import onnx.utils
    from onnx.reference import ReferenceEvaluator

    graph = onnx.load_model_from_string(file.read())
    graph.graph.value_info.append(onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None))
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    given = pixels
    if (
        file is vision.RESNET
    ):  # in [-128, 128], as preprocessor_config.json has it; the graph wants blue first, channels last
        pixels = 50 * pixels
        given = pixels.flip(1).permute(0, 2, 3, 1)
    used = onnx.utils.Extractor(graph).extract_model([entry], [output])
    (wanted,) = ReferenceEvaluator(used).run(None, {entry: given.contiguous().numpy()})
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        found = model(pixel_values=pixels).last_hidden_state
    scale = float(np.abs(wanted).max())
    gap = float(np.abs(found.numpy() - wanted).max())
    assert gap < 1e-3 * scale, f"the graph's output differs by {gap:.2e} of {scale:.2e}"
    return f"largest difference from the ONNX graph {gap:.1e} of {scale:.1e}"


def _transcription(folder: Path) -> str:
    """Spoken English captions of stamps, written down; at least half of them must share the caption's last word."""
    import soundfile
    from scipy.signal import resample_poly

    model = transformers.WhisperForConditionalGeneration.from_pretrained(folder)
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(folder)
    tokenizer = transformers.WhisperTokenizerFast.from_pretrained(folder)
    start = (
        ["<|startoftranscript|>"]
        + ([] if ".en" in folder.name else ["<|en|>", "<|transcribe|>"])
        + ["<|notimestamps|>"]
    )
    told, right = [], 0
    with tempfile.TemporaryDirectory() as temporary:
        CAPTIONS.unpack(Path(temporary))
        captions = sorted(Path(temporary).rglob("animals/mammals/*_desc.ogg"))[:6]
        for file in captions:
            text = file.with_name(file.name.replace("_desc.ogg", ".txt")).read_text(encoding="utf-8").splitlines()[0]
            sound, rate = soundfile.read(file, dtype="float32", always_2d=True)
            clip = resample_poly(sound.mean(axis=1), SAMPLES_A_SECOND, rate).astype(np.float32)
            heard = extractor(clip, sampling_rate=SAMPLES_A_SECOND, return_tensors="pt").input_features
            ids = torch.tensor([tokenizer.convert_tokens_to_ids(start)])
            with torch.no_grad():
                source = model.model.encoder(heard)
                for _ in range(12):
                    ids = torch.cat(
                        [ids, model(encoder_outputs=source, decoder_input_ids=ids).logits[:, -1:].argmax(-1)], 1
                    )
                    if ids[0, -1] == model.config.eos_token_id:
                        break
            written = tokenizer.decode(ids[0], skip_special_tokens=True).strip()
            right += text.strip(" .!").split()[-1].lower() in written.lower()
            told.append(f"{text!r} as {written!r}")
    assert captions, "the package has no spoken captions of mammals"
    assert 2 * right >= len(captions), f"{right} of {len(captions)} captions: {'; '.join(told)}"
    return f"{right} of {len(captions)} captions: {'; '.join(told)}"


def _finite(folder: Path) -> str:
    model = transformers.WhisperForConditionalGeneration.from_pretrained(folder)
    frames = 2 * model.config.max_source_positions
    noise = torch.randn(2, model.config.num_mel_bins, frames, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model(
            input_features=noise, decoder_input_ids=torch.full((2, 1), model.config.decoder_start_token_id)
        ).logits
    assert bool(logits.isfinite().all()), "noise gives logits that are not finite"
    return f"takes {frames} frames; noise gives finite logits"
