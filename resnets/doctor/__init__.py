"""The doctor: what is wrong with a folder of images, or of images with boxes.

Read them in this order:

- `checks`: `examine` lists, decodes and compares all images; `quarantine` excludes broken ones.
- `boxes`: the same for images with boxes; `segments`: polygons and run lengths.
- `report`: findings and their kinds; the report as text, JSON and HTML (`page.html`).
- `duplicates`: files that show the same image.
"""
