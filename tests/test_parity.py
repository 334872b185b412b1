"""The same weights give the same numbers as the models they come from: stored outputs, and live peers."""

import random
import shutil
from pathlib import Path

import parity
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from revit_video.backbones.core import ReViT
from revit_video.convert import convert_state_dict

FIXTURES = sorted((Path(__file__).parent / "data" / "parity").glob("*.safetensors"))


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_the_official_model_gave_the_same(path):
    found = list(parity.compare(path))
    assert found and [one for one in found if one.fails] == []


def test_the_command_fails_above_the_tolerance_and_names_the_tensor(tmp_path, capsys):
    path = tmp_path / "ts_joint.safetensors"
    tensors = load_file(FIXTURES[0].with_name(path.name))
    tensors["logits"] += 2e-5
    config = parity.json.dumps(parity.read_fixture(FIXTURES[0].with_name(path.name)).config)
    save_file(tensors, path, metadata={"config": config})
    assert parity.main([str(path)]) == 1
    shown = capsys.readouterr().out
    assert "ABOVE  logits\n" in shown and "ABOVE  logits_f64" not in shown


def test_the_command_passes_what_agrees(tmp_path, capsys):
    path = shutil.copy(FIXTURES[0].with_name("ts_joint.safetensors"), tmp_path)
    assert parity.main([str(path)]) == 0
    assert "all within their tolerance" in capsys.readouterr().out


def random_peer(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Every parameter random, so that nothing hides behind a zero; float64, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * (0.2 if parameter.ndim > 1 else 0.5))
    return model.double().eval()


def hugging_face(seed: int, attention: str) -> tuple[torch.nn.Module, dict]:
    """A TimesformerForVideoClassification of random small sizes, and the same sizes for ours."""
    transformers = pytest.importorskip("transformers")
    draw = random.Random(seed)
    heads, patch, grid = draw.choice((1, 2, 3)), draw.choice((4, 8)), draw.choice((2, 3))
    sizes = {"dim": heads * 8, "depth": draw.choice((1, 2, 3)), "heads": heads, "crop": patch * grid}
    sizes |= {
        "num_frames": draw.choice((2, 3, 5)),
        "num_classes": draw.choice((3, 7)),
        "token_lengths": (grid,),
    }
    config = transformers.TimesformerConfig(
        image_size=sizes["crop"],
        patch_size=patch,
        num_frames=sizes["num_frames"],
        hidden_size=sizes["dim"],
        num_hidden_layers=sizes["depth"],
        num_attention_heads=heads,
        intermediate_size=4 * sizes["dim"],
        attention_type=attention,
        num_labels=sizes["num_classes"],
    )
    return random_peer(transformers.TimesformerForVideoClassification(config), seed), sizes


def ours_from(peer: torch.nn.Module, sizes: dict, **more) -> ReViT:
    model = ReViT(**sizes, distill_token=False, **more).double().eval()
    state, _ = convert_state_dict(peer.state_dict(), target=model)
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("attention", ["divided_space_time", "joint_space_time"])
def test_hugging_faces_timesformer_gives_the_same_logits(attention, seed):
    peer, sizes = hugging_face(seed, attention)
    model = ours_from(peer, sizes, attention=parity.ATTENTION[attention], class_token_only=bool(seed % 2))
    clips = torch.randn(2, 3, sizes["num_frames"], sizes["crop"], sizes["crop"], dtype=torch.float64)
    with torch.inference_mode():
        theirs = peer(clips.transpose(1, 2)).logits
        torch.testing.assert_close(model(clips), theirs, rtol=0, atol=1e-10)


def test_space_only_is_the_mean_over_frames_which_hugging_face_forgets():
    peer, sizes = hugging_face(1, "space_only")
    model = ours_from(peer, sizes, attention="space_only")
    clips = torch.randn(2, 3, sizes["num_frames"], sizes["crop"], sizes["crop"], dtype=torch.float64)
    with torch.inference_mode():
        apart = peer(clips.transpose(1, 2), output_hidden_states=True)
        assert apart.logits.shape[0] == 2 * sizes["num_frames"]
        frames = apart.hidden_states[-1][:, 0].unflatten(0, (2, -1))
        theirs = peer.classifier(peer.timesformer.layernorm(frames.mean(1)))
        torch.testing.assert_close(model(clips), theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_timms_vision_transformer_gives_the_same_logits(seed):
    sizes = {"dim": 24, "depth": 2, "heads": 3, "crop": 24, "num_classes": 5}
    peer = timm.models.VisionTransformer(
        img_size=24, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=5, mlp_ratio=3
    )
    peer = random_peer(peer, seed)
    more = {"attention": "joint", "num_frames": 1, "mlp_ratio": 3, "token_lengths": (3,)}
    model = ours_from(peer, sizes | more)
    images = torch.randn(2, 3, 24, 24, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(model(images[:, :, None]), peer(images), rtol=0, atol=1e-10)
