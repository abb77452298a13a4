"""What to compare with: other classifiers with the same manners."""

from diffusion_sklearn.baselines._clip import CLIPZeroShotClassifier

__all__ = ["CLIPZeroShotClassifier"]
