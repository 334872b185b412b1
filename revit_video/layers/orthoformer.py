"""The orthoformer approximation of attention (arXiv:2106.05392, section 3.3): through a few landmarks.

Queries and keys meet at M landmarks instead of one another, M queries that point apart from each other:

    softmax(q k^T) v  ~  softmax(q L^T) (softmax(L k^T) v)
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def landmark_attend(q: Tensor, k: Tensor, v: Tensor, *, frames: int, landmarks: int) -> list[Tensor]:
    """What queries q (B, A, S, d) see in each frame of k, v (B, A, S, d): one (B, A, S, d) per frame.

    The first landmark of each head is drawn from torch's global generator, one draw of B * A numbers per
    call: results depend on its seed, in evaluation too.
    """
    root = q.shape[-1] ** -0.25  # the scale of attention, half of it on either side
    q, k = q * root, k * root
    chosen = pick_landmarks(q.detach().flatten(0, 1), min(landmarks, q.shape[2])).unflatten(0, q.shape[:2])
    marks = q.gather(2, chosen[..., None].expand(-1, -1, -1, q.shape[-1]))  # (B, A, M, d)
    near = (q @ marks.transpose(-2, -1)).softmax(dim=-1)  # (B, A, S, M)
    seen = []
    for k_frame, v_frame in zip(k.chunk(frames, dim=2), v.chunk(frames, dim=2), strict=True):
        seen.append(near @ ((marks @ k_frame.transpose(-2, -1)).softmax(dim=-1) @ v_frame))
    return seen


@torch.no_grad()
def pick_landmarks(q: Tensor, count: int) -> Tensor:
    """Indices (R, count), rising, of the landmarks among q (R, S, d): a random one, then always the query
    whose largest |cosine| with those picked so far is smallest.
    """
    q = F.normalize(q, dim=-1)
    rows = torch.arange(len(q), device=q.device)
    index = torch.randint(q.shape[1], (len(q),), device=q.device)
    picked = [index]
    likeness = q.new_zeros(q.shape[:2])  # of each query to the landmark it is most like
    while len(picked) < count:
        likeness = torch.maximum(likeness, (q @ q[rows, index, :, None]).squeeze(-1).abs())
        likeness[rows, index] = float("inf")
        index = likeness.argmin(dim=-1)
        picked.append(index)
    return torch.stack(picked, dim=1).sort(dim=1).values
