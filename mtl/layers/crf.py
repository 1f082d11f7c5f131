"""A linear-chain conditional random field over tags (Lafferty et al. 2001; on top of a network: Lample et al. 2016).

    crf = ChainCRF(tags=120)
    loss = crf.negative_log_likelihood(logits, tags, lengths)      # (B,)
    best = crf.viterbi(logits, lengths)                            # (B, L)

The score of a tag is the network's logit plus a learned score of the transition from the previous tag, so the tags of
a sentence are chosen jointly. Everything is computed in fp32, as logarithms.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mtl.layers.encoder import padding_mask


class ChainCRF(nn.Module):
    """Scores of transitions between `tags` classes; initially zero, which is a softmax for each tag."""

    def __init__(self, tags: int) -> None:
        super().__init__()
        self.steps = nn.Parameter(torch.zeros(tags, tags))  # from the tag of the row to that of the column
        self.first = nn.Parameter(torch.zeros(tags))
        self.last = nn.Parameter(torch.zeros(tags))

    def negative_log_likelihood(self, logits: Tensor, tags: Tensor, lengths: Tensor) -> Tensor:
        """-log p(tags | logits) of each row in nats, (B,): logits (B, L, C), tags (B, L), lengths (B,) from 1 up."""
        logits = logits.float()
        return self._log_partition(logits, lengths) - self._score(logits, tags, lengths)

    def _score(self, logits: Tensor, tags: Tensor, lengths: Tensor) -> Tensor:
        exists = padding_mask(lengths, logits.shape[1])
        tags = tags.masked_fill(~exists, 0)
        emitted = logits.gather(2, tags[..., None]).squeeze(2).masked_fill(~exists, 0.0).sum(dim=1)
        stepped = self.steps[tags[:, :-1], tags[:, 1:]].masked_fill(~exists[:, 1:], 0.0).sum(dim=1)
        final = tags.gather(1, (lengths - 1)[:, None]).squeeze(1)
        return emitted + stepped + self.first[tags[:, 0]] + self.last[final]

    def _log_partition(self, logits: Tensor, lengths: Tensor) -> Tensor:
        """log of the sum over all taggings, (B,): a matrix product instead of a (B, C, C) log-sum-exp per word."""
        shift = self.steps.max().detach()
        weights = (self.steps - shift).exp()
        forward = self.first + logits[:, 0]
        for position in range(1, logits.shape[1]):
            top = forward.max(dim=1, keepdim=True).values.detach()
            summed = ((forward - top).exp() @ weights).clamp(min=torch.finfo(torch.float32).tiny).log() + top + shift
            exists = (position < lengths)[:, None]
            forward = torch.where(exists, summed + logits[:, position], forward)
        return torch.logsumexp(forward + self.last, dim=1)

    @torch.no_grad()
    def viterbi(self, logits: Tensor, lengths: Tensor) -> Tensor:
        """The most probable tagging of each row, (B, L); values beyond a row's length are undefined."""
        logits = logits.float()
        best = self.first + logits[:, 0]
        stay = torch.arange(logits.shape[2], device=logits.device)
        back = []
        for position in range(1, logits.shape[1]):
            reached, origin = (best[:, :, None] + self.steps).max(dim=1)
            exists = (position < lengths)[:, None]
            best = torch.where(exists, reached + logits[:, position], best)
            back.append(torch.where(exists, origin, stay))  # the last tag is repeated beyond the end
        tag = (best + self.last).argmax(dim=1)
        path = [tag]
        for origin in reversed(back):
            tag = origin.gather(1, tag[:, None]).squeeze(1)
            path.append(tag)
        return torch.stack(path[::-1], dim=1)

    def marginals(self, logits: Tensor, lengths: Tensor) -> Tensor:
        """p(tag | logits) of each word, (B, L, C): the gradient of the log partition function by the logits."""
        with torch.enable_grad():
            leaf = logits.detach().float().requires_grad_()
            (probabilities,) = torch.autograd.grad(self._log_partition(leaf, lengths).sum(), leaf)
        return probabilities
