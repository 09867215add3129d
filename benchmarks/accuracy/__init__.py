"""Whether reordering costs accuracy: ``python -m benchmarks.accuracy``.

Handwritten digits (scikit-learn's, which come in its wheel) of which two classes are
slow to load: whatever a loader does to slow samples, it does to these classes. The same
small model is trained with several loaders, and measured class by class.
"""
