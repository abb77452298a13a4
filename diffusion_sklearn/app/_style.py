"""Style of the page, and the script that keeps the folders of uploaded files."""

from diffusion_sklearn.app._photos import SEPARATOR

CSS = """
.gradio-container { max-width: 1080px !important; margin: 0 auto !important; }
h1 { font-size: 1.6rem; font-weight: 650; margin: 0.4rem 0; }
.card { display: grid; grid-template-columns: 10rem 1fr; gap: 1.5rem; padding: 1rem 0; }
.card + .card { border-top: 1px solid var(--border-color-primary); }
.card > div, .pair > * { min-width: 0; }
.out figure, .preview figure { margin: 0; }
.preview { display: flex; flex-wrap: wrap; gap: 1rem; }
.photo { width: 10rem; aspect-ratio: 1; object-fit: cover; image-rendering: pixelated;
  border-radius: 6px; }
figcaption { font-size: 0.8rem; overflow-wrap: anywhere; max-width: 10rem; }
figcaption a, .out p a { text-decoration: underline; color: inherit !important;
  margin: 0 !important; padding: 0 !important; }
.pair { display: grid; gap: 2rem; align-items: start; margin: 0.6rem 0;
  grid-template-columns: repeat(auto-fit, minmax(min(17rem, 100%), 1fr)); }
.out table { border-collapse: collapse; width: 100%; font-size: 0.9rem; margin: 0;
  border: none !important; }
.out caption { text-align: left; font-weight: 650; padding: 0.2rem 0; }
.out th, .out td { padding: 0.3rem 0.8rem 0.3rem 0 !important; text-align: left;
  font-weight: 400; border: none !important; overflow-wrap: anywhere; }
.out thead th { font-size: 0.78rem; }
.out .bars td, .out .bars thead th + th { text-align: right; vertical-align: top;
  width: 4.5rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
.bar { height: 0.7rem; min-width: 2px; border-radius: 2px; background: #2f6fb0;
  margin-top: 0.15rem; transition: width 0.2s; }
.out .best, .out .best th { font-weight: 650 !important; }
.out .dropped { opacity: 0.65; }
.out .dropped .bar { background: #8a8a8a; }
.out tr, .out thead { border: none !important; }
.out .grid td, .out .grid th { padding: 0.3rem 0.6rem !important;
  border-bottom: 1px solid var(--border-color-primary) !important; }
.out .grid td.best { background: rgba(47, 111, 176, 0.16); }
button.selected[role="tab"], .or, .min_value, .max_value { color: inherit !important; }
button.primary { background: #2563eb !important; }
button[role="tab"] { padding: 0 0.7rem !important; }
.out pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 0.82rem;
  padding: 0.6rem; border: 1px solid var(--border-color-primary); border-radius: 6px; }
.copy { text-decoration: underline; cursor: pointer; margin-left: 1rem; }
.scroll { max-height: 26rem; overflow: auto; }
.figure { width: 100%; max-width: 30rem; background: white; border-radius: 6px; }
.example { justify-content: flex-start !important; text-align: left !important;
  min-height: 3rem; background-repeat: no-repeat !important; padding-left: 3.6rem
  !important; background-size: 3rem 3rem !important; image-rendering: pixelated; }
@media (max-width: 640px) { .card { grid-template-columns: 1fr; } }
"""

# Gradio sends the name of a file without its folders.
HEAD = """<script>
document.addEventListener("change", (event) => {
  const input = event.target;
  if (!(input instanceof HTMLInputElement) || !input.webkitdirectory) return;
  const files = new DataTransfer();
  for (const f of input.files) {
    const name = f.webkitRelativePath.split("/").slice(1).join("SEPARATOR");
    files.items.add(new File([f], name || f.name, { type: f.type }));
  }
  input.files = files.files;
}, true);
</script>""".replace("SEPARATOR", SEPARATOR)
