"""RT-DETRv2 of transformers, whole pretrained models or built on any backbone."""
