"""BLEU of a translated text whose sentences are shared among the ranks.

BLEU is a property of the whole text, not a mean over sentences: it follows from ten sums (how
many words of 1, 2, 3 and 4 in a row there are and are right, and the two lengths). The ranks add
up their sums, so the figure is exactly that of one process.
Source: Papineni et al. 2002; sacrebleu's defaults (13a words, case matters) as of Post 2018.
"""

import torch

from training.translation.data import import_package

ORDERS = 4
SUMS = 2 * ORDERS + 2


def count_bleu(translations: list[str], references: list[str]) -> torch.Tensor:
    """Return the ten sums of these sentences as float64: right ones, all, two lengths in words."""
    if not translations:
        return torch.zeros(SUMS, dtype=torch.float64)
    # force: no advice on stderr about sentences that look as if they were tokenised
    bleu = import_package("sacrebleu.metrics").BLEU(force=True)
    score = bleu.corpus_score(translations, [references])
    sums = [*score.counts, *score.totals, score.sys_len, score.ref_len]
    return torch.tensor(sums, dtype=torch.float64)


def compute_bleu(sums: list[float]) -> float:
    """Return BLEU (0 to 100) from the ten sums of all sentences."""
    sums = [int(number) for number in sums]
    bleu = import_package("sacrebleu.metrics").BLEU
    right, all_of_them = sums[:ORDERS], sums[ORDERS : 2 * ORDERS]
    return bleu.compute_bleu(right, all_of_them, *sums[2 * ORDERS :], smooth_method="exp").score
