"""The web page of ``diffusion-sklearn app``; the page itself needs the extra `app`."""
