"""What the parameters of a backbone are for: what all lengths share, and what makes it run at several."""

from revit_video.backbones.core import ReViT

PARTS = {  # where a parameter's name puts it
    "patch embeddings": ("patch_embeds.",),
    "position tables": ("pos_tables.",),
    "norms": (".scale", ".shift"),
    "distillation": ("distill_tokens", "head_distill."),
    "shared": (),  # all else: blocks, class token, heads, the table of times
}


def parameter_parts(model: ReViT) -> dict[str, int]:
    """How many parameters each of PARTS has; a model on the meta device will do."""
    counted = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        own = (
            part
            for part, marks in PARTS.items()
            if any(name.startswith(m) or name.endswith(m) for m in marks)
        )
        counted[next(own, "shared")] += parameter.numel()
    return counted
