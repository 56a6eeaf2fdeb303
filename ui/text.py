"""Every sentence people read on the page."""

NAME = "L2L Unlearning Studio"
PURPOSE = (
    "Choose images an image-to-image model must forget. Its encoder is trained until they look "
    "like noise to it; everything else stays as it was. Then compare before and after."
)
DEMO_WEIGHTS = (
    "Demo weights: a small 64 × 64 model trained on emoji and a few photographs, to show the "
    "method at once. Published checkpoints can be opened by path."
)
HELP = """
**Forget** images are what the model must no longer be able to complete. **Retain** images are what
it must still complete as before; by default that is everything built in that you do not forget.

**How it works.** The model hides part of an image and fills it in: an *encoder* reads what is
visible, a *decoder* paints the rest. Only the encoder is trained, by
[machine unlearning for image-to-image models](https://arxiv.org/abs/2402.00351) (ICLR 2024): forget
images are sent to where noise goes, retain images stay where they were. The decoder is frozen.

**Limits.** This is approximate unlearning, without a formal guarantee: fine-tuning can bring images
back, the original checkpoint still holds the data, and a model that never saw the images would
paint something plausible rather than noise. Forgetting a few images can touch similar ones; Compare
shows the nearest.

**Your images** stay on this machine, in your runs, until you erase the run.
"""
NOTHING_YET = (
    "Nothing has run yet",
    "Drop images or pick a group on the left, then press Unlearn. Here you will see forget images "
    "dissolve while retain images stand. No images at hand? “Try the example” forgets all flags in "
    "about a minute.",
)
PRESETS = [
    ("Quick · 30 steps, most of the forgetting", "quick"),
    ("Balanced · 60 steps, the default", "balanced"),
    ("Thorough · 200 steps, for stubborn sets", "thorough"),
]
RETAIN_CHOICES = [
    ("Everything else built in", "proxy"),
    ("One built-in group", "group"),
    ("My own images", "uploads"),
]
TASKS = [
    ("Inpaint the centre", "centre"),
    ("Outpaint the border", "border"),
    ("Outpaint one side", "side"),
    ("Random patches", "random"),
    ("Draw the hole", "drawn"),
]
ROLES = {
    "extra": ("Your images", "what both models make of the pictures you dropped below"),
    "forget": ("Forget", "should be destroyed"),
    "nearest": (
        "Nearest retain",
        "the most similar images to keep; collateral damage shows here first",
    ),
    "retain": ("Retain", "should look unchanged"),
}
COLUMNS = ("Input with hole", "Original model", "Unlearned model")
LEGEND = (
    "From left to right: {columns}. The numbers say how similar each model's result is to the true "
    "image. Click a sample to look closer."
)
NO_RUN_TO_COMPARE = "No finished run yet. Start one under Unlearn; its pictures appear here."
PRESS_COMPARE = "Press **Compare** to fill the same hole with both models."
RELOAD = (
    "Open downloaded weights in Python: "
    '`l2l_core.load_model("mae-fluent", checkpoint="RUN.safetensors")`'
)
SCORE = "similarity to the true image (cosine, built-in feature net)"
