"""From logits to evidence: ledgers, metrics, paired comparisons, figures, tables.

One convention holds in every table of this package: accuracies, calibration errors,
shares, and the bounds of their intervals are fractions of one, entropies and
likelihoods are in nats. Figures turn fractions into percent on their axes.
"""
