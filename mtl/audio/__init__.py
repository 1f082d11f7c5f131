"""Log-mel features, pitch, augmentation and Griffin-Lim. No model."""
