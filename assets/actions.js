// Report which button was pressed, or which model was chosen, with its data.
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-action]");
  if (!button) return;
  event.preventDefault(); // a button on a card does not choose the card
  if (button.dataset.confirm && !confirm(button.dataset.confirm)) return;
  trigger("click", { ...button.dataset });
});

element.addEventListener("change", (event) => {
  trigger("click", { action: "choose", model: event.target.value });
});
