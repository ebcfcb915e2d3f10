"""scikit-learn estimators on the certified solvers, with no maths of their own: `pip install 'sparsesvm[sklearn]'`."""

from sparsesvm.sklearn.classifier import ClassifierPath, SparseSVMClassifier
from sparsesvm.sklearn.cross_validation import SparseSVMClassifierCV
from sparsesvm.sklearn.regression import SparseRegression

__all__ = ["ClassifierPath", "SparseRegression", "SparseSVMClassifier", "SparseSVMClassifierCV"]
