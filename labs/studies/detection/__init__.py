"""The recorded studies of stage 02 and of the ablation lesson."""
