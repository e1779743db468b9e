"""Images from sentences: the parts of a diffusers checkpoint as stages. Importing it loads no library.

`text_encoder.py`, `denoiser.py` and `vae.py` are the stages; `describe.py` says what a checkpoint can
do without loading it.
"""
