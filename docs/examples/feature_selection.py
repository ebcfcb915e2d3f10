"""
Feature selection in a Pipeline
===============================

The features that a sparse SVM uses, chosen for a classifier that cannot choose: nearest neighbours drown in features of noise.
Cross-validation searches the penalty with the pipeline as a whole, so that no fold selects on its own test samples.
"""

from matplotlib import pyplot
from sklearn.datasets import make_classification
from sklearn.feature_selection import SelectFromModel
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sparsesvm.sklearn import SparseSVMClassifier

# %%
# 200 features, of which ten say something about three classes.

X, y = make_classification(
    n_samples=600, n_features=200, n_informative=10, n_redundant=0, n_classes=3, class_sep=1.5, shuffle=False, random_state=0
)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.5, random_state=0)

selector = SelectFromModel(SparseSVMClassifier(lambda2=1.0), threshold=1e-12)  # what is not in use is exactly zero
pipeline = make_pipeline(StandardScaler(), selector, KNeighborsClassifier(5))
search = GridSearchCV(pipeline, {"selectfrommodel__estimator__lambda1_ratio": [0.05, 0.1, 0.2, 0.3, 0.4, 0.5]}, cv=5)
search.fit(X_train, y_train)
kept = search.best_estimator_["selectfrommodel"].get_support(indices=True)
print(f"chosen: {search.best_params_}, {len(kept)} features, of them informative: {(kept < 10).sum()} of 10")

everything = make_pipeline(StandardScaler(), KNeighborsClassifier(5)).fit(X_train, y_train)
print(f"nearest neighbours on the features chosen: {search.score(X_test, y_test):.3f} of the test samples right")
print(f"on all features: {everything.score(X_test, y_test):.3f}")

# %%

figure, axis = pyplot.subplots(figsize=(5, 3), layout="constrained")
axis.plot(search.cv_results_["param_selectfrommodel__estimator__lambda1_ratio"], search.cv_results_["mean_test_score"], "o-")
axis.axhline(everything.score(X_test, y_test), color="C7", linestyle="--", label="all features, test samples")
axis.set(xlabel="lambda1_ratio", ylabel="accuracy in cross-validation")
axis.legend()
axis.grid(alpha=0.3)
