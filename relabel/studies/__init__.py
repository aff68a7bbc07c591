"""Studies: trainings that are compared.

``downstream`` asks whether a detector for the target gets better by using the sources, and by
which way of using them; ``ablation`` asks what each part of LAT brings; ``completion`` which method
completes partial labels best.
"""
