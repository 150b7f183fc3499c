"""The doctor: what is wrong with a folder of images.

Read them in this order:

- `checks`: `examine` lists, decodes and compares all images; `quarantine` excludes broken ones.
- `report`: findings and their kinds; the report as text, JSON and HTML (`page.html`).
- `duplicates`: files that show the same image.
"""
