// Open a checkpoint: send the chosen files one after the other, then report their upload.
const say = (words, share) => {
  const bar = element.querySelector("progress");
  bar.hidden = share === undefined;
  bar.value = share ?? 0;
  element.querySelector("output").textContent = words;
};

const send = (upload, file) =>
  new Promise((done, failed) => {
    const request = new XMLHttpRequest();
    request.open("PUT", `checkpoints/${upload}/${encodeURIComponent(file.name)}`);
    request.upload.onprogress = (event) => say(`Sending ${file.name}`, event.loaded / event.total);
    request.onload = () => (request.status < 300 ? done() : failed(request.responseText));
    request.onerror = () => failed("The file did not arrive. Try again.");
    request.send(file);
  });

element.addEventListener("change", async (event) => {
  const { files, dataset } = event.target;
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  const upload = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  try {
    for (const file of files) {
      if (file.size > Number(dataset.limit)) throw `“${file.name}” is too large. ${dataset.hint}`;
      await send(upload, file);
    }
    say(`Sent ${[...files].map((file) => file.name).join(", ")}`);
    if (files.length) trigger("upload", { upload });
  } catch (problem) {
    say(problem);
  }
  event.target.value = "";
});
