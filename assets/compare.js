// Compare: a click on a sample opens it large, with a slider between both models.
const pictures = ["truth", "hole", "original", "unlearned"];
let shown = null;

function show(sample) {
  shown = sample;
  const dialog = element.querySelector("dialog");
  for (const name of pictures) {
    const source = sample.querySelector(`[data-picture=${name}]`).src;
    dialog.querySelectorAll(`[data-picture=${name}]`).forEach((image) => (image.src = source));
  }
  for (const name of ["label", "score"]) {
    dialog.querySelector(`[data-${name}]`).textContent = sample.dataset[name];
  }
  if (!dialog.open) dialog.showModal();
  dialog.querySelector("input").focus({ preventScroll: true });
}

function go(steps) {
  const samples = [...element.querySelectorAll(".l2l-sample")];
  show(samples[(samples.indexOf(shown) + steps + samples.length) % samples.length]);
}

element.addEventListener("click", (event) => {
  const sample = event.target.closest(".l2l-sample");
  const step = event.target.closest("[data-go]");
  if (sample) show(sample);
  else if (step) go(Number(step.dataset.go));
  else if (event.target.matches("dialog, [data-close]")) element.querySelector("dialog").close();
});

element.addEventListener("input", (event) => {
  if (event.target.type === "range") {
    event.target.parentNode.style.setProperty("--cut", `${event.target.value}%`);
  }
});
