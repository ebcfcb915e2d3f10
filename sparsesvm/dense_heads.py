"""The usual few-shot heads, which use all features: the baselines of `SparseSVMHead`, and its ridge refit."""

import torch
from torch import Tensor, nn

from sparsesvm import _checks
from sparsesvm.fewshot import NEVER, FewShotHead, Normalize, log_parameter


class RidgeHead(FewShotHead):
    """Ridge regression on the support set in closed form, the head of R2-D2 (Bertinetto et al. 2019).

    Minimises 1/2 sum_i c_i ||W f_i - t_i||^2 + lambda2 / 2 ||W||^2 with targets t_i = one-hot(y_i) - 1 / n_way, in the
    Gram matrix of the support samples.

    Args:
        lambda2: squared-norm penalty, weighed against the sum of squared errors; > 0.
        center, normalize, scale, learn_scale, learn_penalties: as in `SparseSVMHead`.

    Example:
        >>> import torch
        >>> from sparsesvm import RidgeHead
        >>> support, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
        >>> RidgeHead(lambda2=0.1).fit(support, labels).predict(torch.tensor([[0.9, 0.2], [0.1, 2.0]]))
        tensor([0, 1])
    """

    log_lambda2: nn.Parameter | None

    def __init__(
        self,
        *,
        lambda2: float = 0.1,
        center: bool = True,
        normalize: Normalize = True,
        scale: float = 10.0,
        learn_scale: bool = True,
        learn_penalties: bool = False,
    ) -> None:
        super().__init__(center=center, normalize=normalize, scale=scale, learn_scale=learn_scale)
        self.lambda2 = _checks.check_number("lambda2", lambda2, positive=True)
        self.log_lambda2 = log_parameter(lambda2) if learn_penalties else None

    def _fit_linear(
        self, features: Tensor, labels: Tensor, n_way: int, sample_weight: Tensor | None, task_way: Tensor | None
    ) -> tuple[Tensor, None]:
        lambda2 = self.lambda2 if self.log_lambda2 is None else self.log_lambda2.exp()
        return ridge_weights(features, labels, n_way, sample_weight, lambda2, task_way=task_way), None

    def extra_repr(self) -> str:
        return f"lambda2={self.lambda2}, learn_penalties={self.log_lambda2 is not None}, {super().extra_repr()}"


class PrototypeHead(FewShotHead):
    """Nearest class mean, the head of Prototypical Networks (Snell et al. 2017).

    Logits are minus the squared Euclidean distances to the class means, less the squared norm of the query: a term
    common to all classes, which changes neither predictions nor cross entropy. A class without support samples is
    never predicted.

    Args:
        center, normalize, scale, learn_scale: as in `SparseSVMHead`.

    Example:
        >>> import torch
        >>> from sparsesvm import PrototypeHead
        >>> support, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
        >>> PrototypeHead().fit(support, labels).predict(torch.tensor([[0.9, 0.2], [0.1, 2.0]]))
        tensor([0, 1])
    """

    def __init__(
        self, *, center: bool = True, normalize: Normalize = True, scale: float = 10.0, learn_scale: bool = True
    ) -> None:
        super().__init__(center=center, normalize=normalize, scale=scale, learn_scale=learn_scale)

    def _fit_linear(
        self, features: Tensor, labels: Tensor, n_way: int, sample_weight: Tensor | None, task_way: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        members = _checks.one_hot(labels, n_way).to(features.dtype)
        if sample_weight is not None:
            members = members * sample_weight.unsqueeze(-1)
        total = members.sum(-2)
        empty = total == 0
        prototypes = members.mT @ features / torch.where(empty, 1.0, total).unsqueeze(-1)
        bias = torch.where(empty, NEVER, -prototypes.square().sum(-1))
        return 2 * prototypes, bias


def ridge_weights(
    features: Tensor,
    labels: Tensor,
    n_way: int,
    sample_weight: Tensor | None,
    lambda2: Tensor | float,
    name: str = "lambda2",
    task_way: Tensor | None = None,
) -> Tensor:
    """`RidgeHead`'s weights (..., n_way, n_features); `lambda2` is a number or (..., 1, 1), which the caller's user knows as
    `name`."""
    exact = features.double()  # in which small penalties and large features keep their digits
    targets = _checks.one_hot(labels, n_way).double()
    if task_way is None:
        targets = targets - 1 / n_way
    else:
        targets = (targets - 1 / task_way.double()[..., None, None]) * _checks.classes_of(n_way, task_way, labels).unsqueeze(-2)
    # (F' C F + lambda2 I)^-1 F' C T = F' C (F F' C + lambda2 I)^-1 T. Without square roots of the weights C, the gradient
    # exists at weight zero too.
    weight = 1.0 if sample_weight is None else sample_weight.double().unsqueeze(-1)
    gram = (weight * (exact @ exact.mT)).mT
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    coefficients: Tensor = weight * _checks.solve_linear(gram + lambda2 * identity, targets, name)
    return (coefficients.mT @ exact).to(features.dtype)
