// Runs: report which button of which run was pressed.
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-action]");
  if (!button || (button.dataset.confirm && !confirm(button.dataset.confirm))) return;
  trigger("click", { action: button.dataset.action, run: button.dataset.run });
});
