"""Measuring: always on 8-bit pictures, and through the thumbnail file where a model is measured."""
