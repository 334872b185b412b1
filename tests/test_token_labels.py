"""Token labelling and MixToken: where a patch lies in its image, what it learns, and what is refused."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import randomize
from test_image_backbones import official, official_weights
from torchvision.ops import roi_align

from revit_video.backbones.lvvit import lvvit
from revit_video.competitors.evit import EViT
from revit_video.data.label_maps import LabelMaps
from revit_video.layers.reduce import TokenState
from revit_video.settings.augment import AugmentConfig, check_augment
from revit_video.settings.data import DataConfig
from revit_video.train.losses import Distillation
from revit_video.train.revit import revit_step
from revit_video.train.team import refuse_what_cannot_be_parted
from revit_video.train.token_labels import (
    PatchTask,
    TokenLabels,
    patch_loss,
    sampling_weights,
    with_true_class,
)
from revit_video.transform.clip import ResizedCrop, TrainTransform
from revit_video.transform.mix_token import MixToken, box_on_grid, from_partner
from revit_video.transform.place import after, mirrored, of_box, stays
from revit_video.transform.rand_augment import OPERATIONS, RandAugment
from revit_video.types import InputError, VideoSample, View

GRIDS = (14, 10, 7)
VIEW = View((0,), 0, 1)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def middles(side: int) -> torch.Tensor:
    """(side, side, 3): x, y, 1 of the pixels of a picture, in sides."""
    along = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    y, x = torch.meshgrid(along, along, indexing="ij")
    return torch.stack([x, y, torch.ones_like(x)], dim=-1)


def box_place(top: int, left: int, height: int, width: int) -> torch.Tensor:
    return of_box((top, left, height, width), height=100, width=100)


# --- where a clip lies in its frame -------------------------------------------------------------------------


@pytest.mark.parametrize("resized", [True, False])
def test_the_place_of_a_clip_says_which_point_of_the_frame_each_pixel_shows(resized):
    """The frame's red is its x and its green its y, so that a pixel says where it is from."""
    height, width = 120, 160
    frame = np.zeros((1, height, width, 3), np.uint8)
    frame[..., 0], frame[..., 1] = np.arange(width), np.arange(height)[:, None]
    crop = ResizedCrop((0.2, 1.0), (3 / 4, 4 / 3)) if resized else None
    transform = TrainTransform(64, jitter=(64, 80), flip=True, resized_crop=crop)
    flipped = set()
    for seed in range(12):
        clip, label, place = transform.placed(frame, VIEW, 3, random.Random(seed))
        seen = middles(64) @ place.T * torch.tensor([width, height]) - 0.5  # pixels of the frame
        shown = clip[0, :2].permute(1, 2, 0).double()
        inside = slice(2, -2)
        assert (shown - seen)[inside, inside].abs().max() < 1.1 and label == 3
        flipped.add(bool(place[0, 0] < 0))
        again, _ = transform(frame, VIEW, 3, random.Random(seed))
        assert torch.equal(again, clip)
    assert flipped == {True, False}


@pytest.mark.parametrize("name", [name for name, one in OPERATIONS.items() if one.place is not None])
@pytest.mark.parametrize("strength", [-0.8, 0.4])
def test_the_place_of_an_operation_is_where_the_picture_goes(name, strength):
    side = 80
    where = middles(side)
    picture = (where[..., :2] * 255).round().to(torch.uint8)  # red is x, green is y
    clip = torch.cat([picture, picture[..., :1]], dim=-1).permute(2, 0, 1)[None]
    got = OPERATIONS[name].apply(clip, strength, (0.0, 0.0, 0.0))[0, :2].permute(1, 2, 0) / 255
    seen = where @ OPERATIONS[name].place(strength).T
    inside = ((seen > 0.03) & (seen < 0.97)).all(-1)
    assert inside.float().mean() > 0.4
    assert (got - seen)[inside].abs().max() < 0.02
    assert (got - where[..., :2])[inside].abs().max() > 0.05  # it has moved


def test_rand_augment_joins_the_places_of_its_operations():
    step = RandAugment(3, 9.0, 0.5, 1.0, (0.0, 0.0, 0.0))
    clip = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    rng, want = random.Random(6), stays()
    for name in rng.choices(tuple(OPERATIONS), k=3):
        rng.random()
        strength = step._strength(OPERATIONS[name], rng)
        if OPERATIONS[name].place is not None:
            want = after(want, OPERATIONS[name].place(strength))
    torch.testing.assert_close(step.placed(clip, random.Random(6))[1], want)
    assert not torch.equal(want, stays())


# --- label maps on a grid -----------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [*GRIDS, 1])
def test_maps_are_sampled_as_roi_align_does_at_every_length(side):
    maps, boxes = noise(3, 7, 18, 18), ((20, 10, 55, 80), (0, 0, 100, 100), (40, 33, 50, 28))
    places = torch.stack([box_place(*box) for box in boxes])
    corners = torch.tensor([[x, y, x + w, y + h] for y, x, h, w in boxes]).double() * 18 / 100
    rois = torch.cat([torch.arange(3.0).double()[:, None], corners], dim=1)
    want = roi_align(maps, rois, side, sampling_ratio=-(-18 // side), aligned=True)
    weights = sampling_weights(places, grid=(side, side), cells=(18, 18))
    torch.testing.assert_close(weights @ maps.flatten(2).mT, want.flatten(2).mT)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, side * side, dtype=torch.float64))


def test_a_mirrored_clip_has_the_labels_of_its_row_from_the_other_end():
    place = box_place(10, 20, 60, 70)
    plain, flipped = (
        sampling_weights(one[None], grid=(4, 5), cells=(6, 9))[0] for one in (place, after(place, mirrored()))
    )
    torch.testing.assert_close(flipped.unflatten(0, (4, 5)), plain.unflatten(0, (4, 5)).flip(1))


def test_patch_labels_by_hand():
    """A map of 2 x 2 cells over the whole image and patches of the same size: each is its cell."""
    values = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.5, 0.0], [-1.0, 0.25]]])
    classes = torch.tensor([[[0.0, 1.0], [2.0, 3.0]], [[1.0, 0.0], [0.0, 2.0]]])
    labels = TokenLabels(torch.stack([values, classes])[None], stays()[None], num_classes=4)
    cells = torch.tensor([[1.0, 0.5, 0, 0], [0, 2.0, 0, 0], [-1.0, 0, 3.0, 0], [0, 0, 0.25, 4.0]])
    torch.testing.assert_close(labels.of_patches(2, 2)[0], cells.softmax(-1))
    torch.testing.assert_close(labels.of_clips()[0], cells.mean(0).softmax(-1))


def test_the_true_class_takes_half_where_the_map_knows_it_and_a_tenth_elsewhere():
    predicted = torch.tensor([[0.6, 0.3, 0.1], [0.6, 0.3, 0.1]])
    want = torch.tensor([[0.8, 0.15, 0.05], [0.54, 0.37, 0.09]])
    torch.testing.assert_close(with_true_class(predicted, torch.tensor([0, 1])), want)


# --- MixToken -----------------------------------------------------------------------------------------------


def test_one_draw_gives_every_length_the_same_box_to_half_a_token():
    mix = MixToken(1.0, seed=2)
    sizes = []
    for step in range(200):
        box = mix.draw(step)
        assert box == MixToken(1.0, seed=2).draw(step)
        top, bottom, left, right = box
        assert 0 <= top <= bottom <= 1 and 0 <= left <= right <= 1
        sizes.append((bottom - top) * (right - left))
        for side in GRIDS:
            inside = box_on_grid(box, side, side)
            rows, columns = inside.any(1).nonzero().flatten(), inside.any(0).nonzero().flatten()
            assert inside.sum() == len(rows) * len(columns)  # one rectangle
            if len(rows):
                edges = (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1)
                pairs = zip(edges, box, strict=True)
                assert all(abs(int(edge) / side - wanted) <= 0.5 / side + 1e-9 for edge, wanted in pairs)
    assert len(set(sizes)) == 200 and MixToken(1.0, seed=3).draw(0) != mix.draw(0)
    assert 0.25 < np.mean(sizes) < 0.4  # 1/2 before boxes are cut off at the frame's sides


def test_the_corners_of_a_box_on_a_grid():
    inside = box_on_grid((0.0, 0.26, 0.5, 1.0), 4, 6)
    want = torch.zeros(4, 6, dtype=torch.bool)
    want[0, 3:] = True
    assert torch.equal(inside, want)
    assert box_on_grid((0.0, 1.0, 0.0, 1.0), 3, 3).all() and not box_on_grid((0.4, 0.45, 0, 1), 7, 7).any()


def test_to_take_the_box_twice_gives_back_what_was_there():
    values, inside = noise(5, 49, 3), box_on_grid((0.2, 0.7, 0.1, 0.9), 7, 7).flatten()
    once = from_partner(values, inside)
    assert torch.equal(from_partner(once, inside), values)
    assert torch.equal(once[1][inside], values[3][inside]) and torch.equal(
        once[1][~inside], values[1][~inside]
    )
    assert torch.equal(once[2], values[2])  # the middle one is its own partner


def lv(**changes) -> torch.nn.Module:
    small = {"num_classes": 6, "crop": 32, "token_lengths": (8, 4), "dim": 16, "depth": 2, "heads": 2}
    small["stem_width"] = 4  # convolutions in float64 are slow
    return randomize(lvvit(**{**small, **changes}).double(), seed=4)


@pytest.mark.parametrize("level", [0, 1])
def test_the_model_takes_tokens_after_the_stem_and_before_the_positions(level):
    model, clips = lv().eval(), noise(3, 3, 1, 32, 32, seed=1)
    grid = model.grids[level]
    inside = box_on_grid((0.0, 0.5, 0.25, 1.0), grid.height, grid.width)
    x, prefix = model.embed(clips, grid, inside)
    plain, _ = model.embed(clips, grid)
    table = model.pos_tables.table(grid)[1:]
    tokens = plain[:, prefix:] - table
    want = torch.where(inside.flatten()[:, None], tokens.flip(0), tokens) + table
    torch.testing.assert_close(x[:, prefix:], want)
    assert torch.equal(x[:, :prefix], plain[:, :prefix])
    everything = torch.ones_like(inside)
    torch.testing.assert_close(model(clips, level, swap=everything), model(clips, level).flip(0))
    torch.testing.assert_close(model(clips, level, swap=~everything), model(clips, level))


@pytest.mark.parametrize("side", GRIDS)
def test_a_clips_target_has_the_share_of_the_tokens_that_it_kept(side):
    task = PatchTask(box=MixToken(1.0, seed=1).draw(3))
    grid = lv(token_lengths=(side,), crop=4 * side, patch_embed="conv").grids[0]
    swap = task.swap(grid, torch.device("cpu"))
    labels = torch.tensor([0, 3, 5])
    mixed = task.clip_targets(labels, swap, num_classes=6)
    kept = 1 - int(swap.sum()) / side**2
    assert 0 < kept < 1
    want = kept * torch.eye(6)[labels] + (1 - kept) * torch.eye(6)[labels.flip(0)]
    torch.testing.assert_close(mixed, want, rtol=0, atol=1e-7)
    assert PatchTask().clip_targets(labels, None, num_classes=6) is labels


# --- the loss -----------------------------------------------------------------------------------------------


@pytest.mark.shared
def test_the_official_outputs_and_losses_with_a_box_of_mixed_tokens():
    _, state, saved = official("lvvit_token_label_loss")
    model = lvvit(num_classes=10, crop=80, token_lengths=(5,), dim=48, depth=4, heads=3, skip_lam=2.0)
    model.load_state_dict(official_weights(state, "patch_embed"))
    rows, columns, rows_end, columns_end = saved["bbox"].tolist()
    swap = torch.zeros(5, 5, dtype=torch.bool)
    swap[rows:rows_end, columns:columns_end] = True
    with torch.no_grad():
        out = model.train()(saved["input"][:, :, None], swap=swap, full_output=True)
    unmixed = from_partner(out.aux_logits, swap.flatten())
    torch.testing.assert_close(out.logits, saved["train.logits_cls"], rtol=0, atol=2e-5)
    torch.testing.assert_close(unmixed, saved["train.logits_aux"], rtol=0, atol=2e-5)
    truth, clip, patches = saved["target"].split([1, 1, 25], dim=-1)

    class Given(TokenLabels):
        def of_patches(self, height, width):
            return patches.mT

    box = (rows / 5, rows_end / 5, columns / 5, columns_end / 5)
    given = Given(torch.zeros(4), torch.zeros(4), 10)

    def loss(target, weight, labels=given, box=box):
        task = PatchTask(weight, labels, box)
        swap = task.swap(model.grids[0], target.device) if box else None
        seen = out if box else type(out)(out.logits, None, None, aux_logits=unmixed)
        class_part = F.cross_entropy(out.logits, task.clip_targets(target, swap, num_classes=10))
        return class_part + task.loss(seen, target, swap, grid=model.grids[0])

    truth, clip = truth[..., 0], clip[..., 0]
    share = 0.9 - 0.4 * (clip.argmax(1) == truth.argmax(1)).float()[:, None]
    for name, value in {
        "dense05": loss(clip, 0.5),
        "dense10": loss(clip, 1.0),
        "dense05_nobox": loss(clip, 0.5, box=None),
        "dense05_class_target": loss(clip, 0.5, labels=None),
        "gt": loss(share * clip + (1 - share) * truth, 0.5),
    }.items():
        torch.testing.assert_close(value, saved[f"loss.{name}"], rtol=0, atol=5e-6)


def test_the_patch_loss_by_hand_and_its_gradient_by_differences():
    logits, labels = noise(2, 4, 3).requires_grad_(), noise(2, 4, 3, seed=1).softmax(-1)
    smooth = 0.9 * labels + 0.1 / 3
    want = -(smooth * logits.log_softmax(-1)).sum() / 8
    torch.testing.assert_close(patch_loss(logits, labels, smoothing=0.1), want)
    assert torch.autograd.gradcheck(lambda x: patch_loss(x, labels, smoothing=0.1), logits)
    owner = torch.tensor([[0, -1, 1, 2], [2, 0, 1, -1]])  # the third unit left is fused
    kept = TokenState(1, 3, owner, fused=torch.tensor([[False, False, True]] * 2))
    left = noise(2, 3, 3, seed=2).requires_grad_()
    pairs = ((0, 0, 0), (0, 1, 2), (1, 0, 1), (1, 1, 2))  # clip, unit, its place
    want = -sum((labels[b, place] * left[b, unit].log_softmax(-1)).sum() for b, unit, place in pairs) / 4
    torch.testing.assert_close(patch_loss(left, labels, kept), want)
    assert torch.autograd.gradcheck(lambda x: patch_loss(x, labels, kept), left)


def batch_with_maps(count: int = 4) -> tuple[torch.Tensor, torch.Tensor, TokenLabels]:
    clips, labels = noise(count, 3, 1, 32, 32, seed=1), torch.arange(count) % 6
    classes = torch.stack([noise(6, 3, 3, seed=i).argsort(0)[:2] for i in range(count)]).double()
    maps = torch.stack([noise(count, 2, 3, 3, seed=2), classes], dim=1)
    places = torch.stack([box_place(10 * i, 5, 60, 80) for i in range(count)])
    return clips, labels, TokenLabels(maps, places, 6)


def gradients(model, clips, labels, task: PatchTask, **options) -> tuple[dict, dict]:
    model.zero_grad()
    how = {"levels": range(model.num_levels), "distillation": Distillation(weight=0.3)}
    sums = revit_step(model, clips, labels, patches=task, **how, **options)
    return sums, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("box", [None, (0.0, 0.5, 0.25, 1.0)])
@pytest.mark.parametrize("reducer", [None, EViT(0.6, blocks=(0,))])
def test_a_step_adds_the_loss_of_every_length_on_its_own_grid(box, reducer):
    model, (clips, labels, maps) = lv().eval(), batch_with_maps()
    targets = maps.of_clips()
    task = PatchTask(0.5, maps, box)
    _, got = gradients(model, clips, labels, task, targets=targets, reducer=reducer, smoothing=0.1)
    model.zero_grad()
    teacher, total = None, 0.0
    for level, grid in enumerate(model.grids):
        swap = None if box is None else box_on_grid(box, grid.height, grid.width)
        out = model(clips, level, full_output=True, swap=swap, reducer=reducer)
        of_patches, of_clips = maps.of_patches(grid.height, grid.width), targets
        if box is not None:
            share = 1 - swap.double().mean()
            of_clips = share * targets + (1 - share) * targets.flip(0)
            of_patches = from_partner(of_patches, swap.flatten())
        loss = F.cross_entropy(out.logits, of_clips, label_smoothing=0.1)
        if teacher is None:
            teacher = out.logits.detach()
        else:
            soft = F.kl_div(out.distill_logits.log_softmax(-1), teacher.softmax(-1), reduction="batchmean")
            loss = 0.7 * loss + 0.3 * soft
        total = total + loss + 0.5 * patch_loss(out.aux_logits, of_patches, out.kept, smoothing=0.1)
    total.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(got[name], parameter.grad, msg=name)
    assert got["aux_head.weight"].abs().max() > 0


def test_passes_of_few_clips_have_the_gradients_of_the_whole_with_the_labels_of_each():
    model, (clips, labels, maps) = lv().eval(), batch_with_maps()
    options = {"targets": maps.of_clips()}
    sums, whole = gradients(model, clips, labels, PatchTask(0.5, maps), **options)
    parted, pieces = gradients(model, clips, labels, PatchTask(0.5, maps), micro_batch=3, **options)
    for name, gradient in whole.items():
        torch.testing.assert_close(pieces[name], gradient)
    torch.testing.assert_close(parted["loss"], sums["loss"])


def test_without_maps_every_patch_learns_the_class_of_its_clip():
    model, (clips, labels, _) = lv().eval(), batch_with_maps()
    model.zero_grad()
    out = model(clips, full_output=True)
    patches = F.cross_entropy(out.aux_logits.flatten(0, 1), labels.repeat_interleave(64))
    torch.testing.assert_close(PatchTask(0.5).loss(out, labels, None, grid=model.grids[0]), 0.5 * patches)


def test_without_a_task_the_head_of_the_patches_learns_nothing():
    model, (clips, labels, _) = lv().eval(), batch_with_maps()
    assert "aux_head.weight" not in gradients(model, clips, labels, None)[1]


# --- files of label maps, and what is refused ---------------------------------------------------------------


@pytest.fixture
def maps_of(tmp_path):
    """maps_of(tensor): label maps of a list of two images, of which the second has the given map."""

    def build(second) -> LabelMaps:
        folder = tmp_path / "maps/cat"
        folder.mkdir(parents=True, exist_ok=True)
        good = torch.stack([torch.ones(5, 4, 4), torch.arange(5.0).view(5, 1, 1).expand(5, 4, 4)])
        torch.save(good.half(), folder / "one.pt")
        if second is not None:
            torch.save(second, folder / "two.pt")
        samples = [VideoSample(f"x/train/cat/{name}.v2.JPEG", 0) for name in ("one", "two")]
        return LabelMaps(tmp_path / "maps", samples, num_classes=10)

    return build


def test_a_map_is_found_by_class_and_name_up_to_the_first_dot(maps_of):
    good = torch.stack([torch.rand(5, 4, 4), torch.arange(5.0).view(5, 1, 1).expand(5, 4, 4) + 5]).half()
    maps = maps_of(good)
    assert torch.equal(maps.read("elsewhere/cat/two.v2.JPEG"), good.float())


def classes_map(*classes: float, dtype=torch.float16) -> torch.Tensor:
    listed = torch.tensor(classes).view(-1, 1, 1).expand(-1, 4, 4)
    return torch.stack([torch.ones_like(listed), listed]).to(dtype)


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (torch.ones(2, 5, 16), r"is \[2, 5, 16\], but must be \[2, k, h, w\]"),
        (torch.ones(3, 5, 4, 4), r"is \[3, 5, 4, 4\], but must be"),
        (torch.ones(2, 5, 3, 4), r"is \[2, 5, 3, 4\], but the first one \[2, 5, 4, 4\]"),
        (classes_map(0, 1, 2, 3, 10), "classes from 0 to 10, but the data has 0 to 9"),
        (classes_map(0, 1, 2, 3, -1), "classes from -1 to 3"),
        (classes_map(0, 1, 2, 3, 1.5), "classes from 0 to 3, but"),
        (classes_map(0, 1, 2, 3, 3), "names a class twice"),
        (classes_map(0, 1, 2, 3, float("nan")), "no finite"),
        (classes_map(0, 1, 2, 3, 4, dtype=torch.int16), "no finite floating-point"),
        ({"a": torch.ones(2)}, "holds a dict, not one tensor"),
        (random.Random(0), "cannot be read: "),  # not data: weights_only refuses it
    ],
)
def test_a_wrong_map_is_refused_in_one_line_that_names_it(maps_of, second, said):
    maps = maps_of(second)
    with pytest.raises(InputError, match=said) as error:
        maps.read("train/cat/two.JPEG")
    assert "two.pt" in str(error.value) and "\n" not in str(error.value)


def test_missing_maps_and_two_images_of_one_map_are_named_at_the_start(maps_of, tmp_path):
    with pytest.raises(InputError, match=r"1 of 2 images have no label map: .*cat/two\.pt"):
        maps_of(None)
    samples = [VideoSample(f"cat/one.{ending}", 0) for ending in ("jpg", "png")]
    with pytest.raises(InputError, match=r"cat/one\.jpg and cat/one\.png have one label map"):
        LabelMaps(tmp_path / "maps", samples, num_classes=10)
    with pytest.raises(InputError, match="no folder nowhere of label maps"):
        LabelMaps("nowhere", samples, num_classes=10)


def test_pixels_and_tokens_are_not_mixed_at_once():
    data = {"root": "x", "dataset": "image_folders", "num_frames": 1}
    plain, mapped = DataConfig(**data), DataConfig(**data, label_maps="maps")
    check_augment(AugmentConfig(preset="lvvit"), mapped, batch_size=4)
    check_augment(AugmentConfig(preset="lvvit"), plain, batch_size=4)
    with pytest.raises(
        InputError, match=r"augment\.mixup and augment\.cutmix mix pixels, .*augment\.mixup=0"
    ):
        check_augment(AugmentConfig(preset="deit"), mapped, batch_size=6)
    with pytest.raises(InputError, match=r"augment\.cutmix mix pixels, and augment\.mix_token is for"):
        check_augment(AugmentConfig(preset="lvvit", cutmix=1.0), plain, batch_size=6)
    with pytest.raises(InputError, match=r"augment\.mix_token mixes the clips of a pass"):
        check_augment(AugmentConfig(mix_token=1.0), plain, batch_size=1)


def test_label_maps_are_of_single_pictures_in_class_folders():
    with pytest.raises(InputError, match=r"data\.label_maps is 'maps', but data\.dataset=class_folders"):
        DataConfig(root="x", dataset="class_folders", num_frames=1, label_maps="maps")
    with pytest.raises(InputError, match=r"data\.num_frames is 8, but must be 1 with data\.label_maps"):
        DataConfig(root="x", dataset="image_folders", label_maps="maps")


def test_mixed_tokens_are_not_parted_by_lengths():
    with pytest.raises(InputError, match=r"augment\.mix_token mixes the clips of a pass.*sequential"):
        refuse_what_cannot_be_parted(transfers=False, statistics=False, tokens_mixed=True)
