"""The level switch: what each level owns, what all share, and what is refused."""

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY, randomize
from timm.models.vision_transformer import VisionTransformer

from revit_video.backbones.core import ReViT, token_grids
from revit_video.backbones.image_vit import image_vit
from revit_video.backbones.zoo import MODELS, create_model
from revit_video.types import InputError, TokenGrid


def level_grads(model: ReViT, clips: torch.Tensor, level: int) -> dict[str, torch.Tensor]:
    """Gradients of a loss that weighs all logits differently."""
    logits = model(clips, level)
    model.zero_grad()
    (logits * torch.linspace(-1, 2, logits.numel(), dtype=logits.dtype).view_as(logits)).sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("distill_token", [True, False])
@pytest.mark.parametrize(
    "kind",
    [
        {"attention": "divided"},
        {"attention": "joint"},
        {"attention": "space_only"},
        {"attention": "divided", "joint_positions": True},
    ],
)
def test_a_last_block_of_class_tokens_alone_changes_no_logit_and_no_gradient(
    tiny, clips, kind, distill_token, level
):
    changes = {**kind, "distill_token": distill_token}
    whole, short = tiny(**changes), tiny(**changes, class_token_only=True)
    short.load_state_dict(whole.state_dict())
    batch = clips()
    torch.testing.assert_close(short(batch, level), whole(batch, level), rtol=1e-11, atol=1e-12)
    ours, theirs = level_grads(short, batch, level), level_grads(whole, batch, level)
    assert ours.keys() == theirs.keys()
    for name, grad in ours.items():
        torch.testing.assert_close(grad, theirs[name], rtol=1e-9, atol=1e-11, msg=name)
    assert short(batch, level, full_output=True).features is None


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_level_uses_its_own_embedding_table_and_rows_and_no_others(tiny, clips, level):
    model = tiny()
    grads = level_grads(model, clips(), level)
    for other in range(3):
        used = other == level
        assert (f"patch_embeds.{other}.proj.weight" in grads) == used
        assert (f"pos_tables.{other}" in grads) == used
        for name, grad in grads.items():
            if name.endswith((".scale", ".shift")):
                assert (grad[other].abs().max() > 0) == used, name
    assert ("distill_tokens" in grads) == ("head_distill.weight" in grads) == (level > 0)
    if level:
        assert grads["distill_tokens"].abs().amax(dim=1).gt(0).tolist() == [level == 1, level == 2]


def test_the_prediction_is_the_mean_of_both_heads_where_there_are_two(tiny, clips):
    model = tiny()
    for level in range(3):
        out = model(clips(), level, full_output=True)
        if level == 0:
            assert out.distill_logits is None
            torch.testing.assert_close(model(clips(), level), out.logits)
        else:
            torch.testing.assert_close(model(clips(), level), (out.logits + out.distill_logits) / 2)


def test_features_lie_at_their_place_in_the_clip(tiny, clips):
    model = tiny(attention="joint", depth=0, crop=(32, 48))
    out = model(clips(height=32, width=48), 0, full_output=True)
    assert out.features.shape == (2, 3, 4, 6, 16)
    frame, row, column = 1, 2, 3
    patch = clips(height=32, width=48)[:, :, frame, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
    token = torch.einsum("bcij,dcij->bd", patch, model.patch_embeds[0].proj.weight)
    token = token + model.patch_embeds[0].proj.bias + model.pos_tables[0][1 + 6 * row + column]
    expected = model.norm(token + model.time_table[frame], 0)
    torch.testing.assert_close(out.features[:, frame, row, column], expected)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_space_only_is_the_image_model_on_every_frame_and_the_mean_before_the_norm(tiny, clips, level):
    video, image = tiny(attention="space_only"), tiny(attention="joint", num_frames=1)
    assert video.time_table is None
    image.load_state_dict(video.state_dict())
    batch, seen = clips(), []
    image.norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    apart = [image(frame, level) for frame in batch.split(1, dim=2)]
    mean = torch.stack(seen).mean(dim=0)  # (B, P + S, D)
    out = video(batch, level, full_output=True)
    expected = image.head(
        F.layer_norm(mean[:, 0], (16,), image.norm.scale[level], image.norm.shift[level], 1e-6)
    )
    torch.testing.assert_close(out.logits, expected, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(video(batch.flip(2), level), video(batch, level), rtol=1e-10, atol=1e-11)
    still = batch[:, :, :1].expand_as(batch)
    torch.testing.assert_close(video(still, level), apart[0], rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_table_over_space_and_time_can_say_what_separate_tables_say_and_more(tiny, clips, level):
    apart, joint = tiny(), tiny(joint_positions=True)
    assert joint.time_table is None and apart.time_table is not None
    state = {name: value for name, value in apart.state_dict().items() if name != "time_table"}
    for grid in apart.grids:
        table = state[f"pos_tables.{grid.level}"]
        places = table[None, 1:] + apart.time_table[:, None]  # (T, S, D)
        state[f"pos_tables.{grid.level}"] = torch.cat([table[:1], places.flatten(0, 1)]).detach()
    joint.load_state_dict(state)
    before = joint(clips(), level)
    torch.testing.assert_close(before, apart(clips(), level), rtol=1e-10, atol=1e-11)
    with torch.no_grad():
        joint.pos_tables[level][1 + 2 * joint.grids[level].per_frame, 3] += 1.0  # one place of the last frame
    assert (joint(clips(), level) - before).abs().max() > 1e-3


def test_the_clips_of_a_batch_do_not_see_each_other(tiny, clips):
    model, batch = tiny(), clips(batch=3)
    for level in range(3):
        alone = torch.cat([model(clip[None], level) for clip in batch])
        torch.testing.assert_close(model(batch, level), alone, rtol=1e-11, atol=1e-12)


def test_centred_clips_hide_what_stands_still(tiny, clips):
    model, batch = tiny(center_clips=True), clips()
    still = clips(frames=1, seed=7)
    torch.testing.assert_close(model(batch + still), model(batch), rtol=1e-10, atol=1e-11)
    assert (tiny()(batch + still) - tiny()(batch)).abs().max() > 1e-2


def test_an_image_model_is_timms_vision_transformer_with_the_same_weights(clips):
    shape = {"num_classes": 5, "depth": 3}
    theirs = VisionTransformer(img_size=32, patch_size=8, embed_dim=24, num_heads=3, **shape)
    theirs = randomize(theirs, seed=3).double().eval()
    ours = image_vit(crop=32, token_lengths=(4,), dim=24, heads=3, **shape).double().eval()
    source = {name: tensor.detach() for name, tensor in theirs.state_dict().items()}
    state = {"class_token": source.pop("cls_token").flatten(), "pos_tables.0": source.pop("pos_embed")[0]}
    for name, tensor in source.items():
        name = name.replace("patch_embed.", "patch_embeds.0.")
        if "norm" in name:
            name, tensor = name.replace("weight", "scale").replace("bias", "shift"), tensor[None]
        state[name] = tensor
    ours.load_state_dict(state)
    images = clips(frames=1)
    torch.testing.assert_close(ours(images), theirs(images[:, :, 0]), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("shape", [(2, 3, 4, 32, 32), (2, 3, 3, 16, 32), (2, 3, 3, 32, 48)])
def test_a_clip_of_another_size_is_refused_with_both_sizes(tiny, shape):
    with pytest.raises(InputError) as caught:
        tiny()(torch.zeros(shape, dtype=torch.float64))
    frames, height, width = shape[2:]
    assert str(caught.value) == (
        f"the clip has {frames} frames of {height}x{width} px, but this model takes 3 of 32x32"
    )


@pytest.mark.parametrize("lengths", [(), (7, 10), (7, 7), (4, 0), (4, -1)])
def test_lengths_that_do_not_fall_are_refused(lengths):
    with pytest.raises(
        InputError, match=r"token_lengths are \[.*\], but must be positive and fall, such as \[14, 10, 7\]"
    ):
        token_grids(lengths, num_frames=1, crop=(224, 224))


def test_lengths_too_large_for_the_crop_are_refused_with_the_largest_that_fits():
    with pytest.raises(
        InputError, match=r"token length 9 leaves patches below 4 px in a crop of 32 px; .* up to 8"
    ):
        token_grids((9, 4), num_frames=1, crop=(32, 64))
    assert token_grids((8, 4), num_frames=1, crop=(32, 64)) == (TokenGrid(1, 8, 16, 0), TokenGrid(1, 4, 8, 1))


def test_a_token_length_that_the_model_has_not_is_refused_with_those_it_has(tiny):
    assert [tiny().level_of(length) for length in (4, 3, 2)] == [0, 1, 2]
    with pytest.raises(InputError, match=r"token length 14 is not one of this model's: \[4, 3, 2\]"):
        tiny().level_of(14)


def test_unknown_models_and_arguments_are_refused_with_the_nearest_name():
    with pytest.raises(InputError, match=r"no model named 'timesformer_bsae'\. Nearest: timesformer_base"):
        create_model("timesformer_bsae")
    with pytest.raises(
        InputError, match=r"model deit_tiny has no argument 'num_clases'\. Nearest: num_classes"
    ):
        create_model("deit_tiny", num_clases=3)
    with pytest.raises(InputError, match="pos_init is 'sin', but must be one of: normal, sine"):
        create_model("deit_tiny", pos_init="sin", depth=1)
    with pytest.raises(InputError, match=r"attention is 'dividid', but must be one of: joint, divided"):
        create_model("deit_tiny", attention="dividid", depth=1)
    with pytest.raises(InputError, match=r"dim=192 is no multiple of heads=5"):
        create_model("deit_tiny", heads=5, depth=1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"patch_embed_options": {"widht": 8}},
            r"patch_embed 'conv' has no option 'widht'; it has: channels, even",
        ),
        (
            {"patch_embed": "lv_stem", "patch_embed_options": {"token_dim": 8}},
            r"patch_embed 'lv_stem' has no option 'token_dim'; it has: width, channels",
        ),
        (
            {"attention": "trajectory", "attention_options": {"made": "fixed"}},
            r"trajectory attention has no option 'made'; it has: mode, ",
        ),
        ({"attention_options": {"mode": "fixed"}}, r"divided attention has no option 'mode'; it has: none"),
        (
            {"tubelet": 3, "patch_embed": "t2t_performer"},
            r"patch_embed 't2t_performer' embeds single frames, not tubelets of 3 frames",
        ),
        (
            {"tubelet": 3, "patch_embed": "lv_stem"},
            r"patch_embed 'lv_stem' embeds single frames, not tubelets of 3 frames",
        ),
        ({"tubelet": 2}, r"3 frames are no multiple of tubelet=2; change one of them"),
        (
            {"residual_scale": 0.5},
            r"divided attention has no scaled residuals; leave residual_scale at 1",
        ),
    ],
)
def test_parts_that_do_not_go_together_are_refused(changes, said):
    with pytest.raises(InputError, match=said):
        ReViT(**{**TINY, **changes})


@pytest.mark.parametrize("name", MODELS)
def test_every_model_of_the_zoo_runs_at_every_length(name):
    small = {"depth": 1, "num_classes": 3, "dim": 48, "heads": 2, "crop": 64, "token_lengths": (8, 4)}
    model = create_model(name, **small).eval()
    with torch.inference_mode():
        for level in range(2):
            logits = model(torch.randn(1, 3, model.num_frames, 64, 64), level)
            assert logits.shape == (1, 3) and logits.isfinite().all()


@pytest.mark.parametrize("zero_time_init", [True, False])
def test_time_attention_starts_as_if_it_were_not_there_unless_told_otherwise(zero_time_init):
    model = ReViT(**TINY, zero_time_init=zero_time_init)
    patches = torch.randn(2, 3, 16, 16)  # (B, T, S, D)
    for block in model.blocks:
        assert block.time(patches, model.grids[0]).eq(0).all() == zero_time_init
