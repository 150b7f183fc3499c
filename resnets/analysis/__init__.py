"""What the paper measures on networks, beside their errors; each file stands for itself.

- `responses`: layers as the paper counts them, and the deviations of their responses (Figure 7).
- `signals`: forward signals and backward gradients of every layer (section 4.1).
- `deepen`: a deeper network with the same outputs, by construction (section 1).
- `activation_maps`: the evidence for a class at each location of an image.
- `inputs`: preprocessed images for these measurements.
- `figures`, `panels`, `overlays`: drawings. A figure consists of panels; overlays are heat maps.
"""
