"""Every sentence people read on the page, except what services say about a run."""

NAME = "L2L Unlearning Studio"
PURPOSE = (
    "Choose images, and an image-to-image model unlearns them: it can no longer complete them, "
    "and completes everything else as before."
)
DEMO = "Demo weights: a small model trained on emoji"
STATES = {
    "ready": "Ready",
    "training": "Training",
    "starting": "Starting: the training process is loading",
}

HELP_TITLE = "What are forget and retain?"
HELP = """
**Forget** images are what the model must no longer be able to complete. **Retain** images are what
it must still complete as before. You only need the first: by default the studio retains everything
built in that you do not forget, as a stand-in (proxy) for what the model was trained on.

**How it works.** The model fills holes in pictures: an *encoder* reads what is visible, a *decoder*
paints the rest. Unlearning trains a copy of the encoder until forget images look like noise to it
while retain images look as they did to the original; the decoder stays frozen. The method is
[machine unlearning for image-to-image generative models](https://arxiv.org/abs/2402.00351)
(ICLR 2024).

**Limits, plainly.** This is approximate and comes with no guarantee. Fine-tuning can bring the
images back. The original checkpoint still holds the data, and publishing both models shows what was
removed. A model that had never seen the images would paint something plausible, not noise. Images
close to the forgotten ones can suffer too; Compare shows the nearest. The demo model works at
64 × 64 pixels, so what it paints is soft even before unlearning.

**Your images** stay on the machine that runs the studio, inside your runs, until you erase the run.
The files as you sent them are deleted within an hour. Only this browser sees them.
"""

FORGET_HINT = "Drop images, pick built-in groups, or both."
FORGET_GROUPS = "Built-in groups"
RETAIN_HINT = "What must keep working."
RETAIN_CHOICES = [
    ("Everything else built in", "proxy"),
    ("Chosen groups", "groups"),
    ("My own images", "uploads"),
]
STRENGTH_HINT = "How long to train."
PRESETS = [
    ("Quick\n60 steps, most of the forgetting", "quick"),
    ("Balanced\n120 steps, the default", "balanced"),
    ("Thorough\n300 steps, for stubborn sets", "thorough"),
]
SETTINGS = {  # label, and what it means where the setting's own words do not fit the page
    "alpha": ("α", "Weight of forgetting against retaining."),
    "steps": ("Steps", "Empty: the preset's."),
    "batch_size": ("Batch", ""),
    "warmup": ("Warm-up", "Share of the steps until the rate peaks."),
    "weight_decay": ("Weight decay", "On weight matrices only."),
    "masks": ("Holes", ""),
    "noise": ("Noise", "What forget images are made to look like."),
}
EXAMPLE = "Try the example"
EXAMPLE_GROUP = "flags"
CHECKPOINT = "Path of its weights, on the machine that runs the studio"
MODEL_OPTIONS = "Options its shapes cannot tell"
NOTHING_CHOSEN = "Nothing chosen to forget yet."
LEFT_OUT = "Left out"
NOTED = "Good to know"

EMPTY_TITLE = "Before and after will appear here"
EMPTY_STEPS = (
    ("Choose", "Drop a few images, or press “Try the example” to forget all flags."),
    ("Unlearn", "Watch forget images dissolve while retain images stand. About a minute."),
    ("Compare", "Fill the same hole with both models, side by side, on images of your choice."),
)
LEAVE = "You can close this page: the run goes on, and is here when you come back."
PREVIEW_ROWS = {"input": "Hole", "original": "Original", "now": "Now"}

TASKS = [
    ("Inpaint the centre", "centre"),
    ("Outpaint the border", "border"),
    ("Outpaint one side", "side"),
    ("Random patches", "random"),
    ("Draw a hole", "drawn"),
]
SIDES = [("Left", "left"), ("Right", "right"), ("Top", "up"), ("Bottom", "down")]
SIZES = {
    "centre": "Side of the hole",
    "border": "Width of the border",
    "side": "How much is painted",
    "random": "Share of patches",
}
TRY = "Drop other images to try"
ROLES = {
    "extra": ("Your images", "what both models make of the images you dropped"),
    "forget": ("Forget", "should be destroyed"),
    "nearest": ("Nearest retain", "the images most like the forgotten; damage shows here first"),
    "retain": ("Retain", "should look unchanged"),
}
COLUMNS = {
    "hole": "Input with hole",
    "original": "Original model",
    "unlearned": "Unlearned model",
}
NO_RUN_TO_COMPARE = "Nothing to compare yet"
NO_RUN_HINT = "Finish a run under Unlearn; its before and after appear here."
COMPARE_HINT = "Point at an input to see the true image. Click a sample to look closer."
SCORE = "similarity to the true image: cosine in the built-in feature net"

NO_RUNS = "No runs yet. What you start under Unlearn is listed here."
CONFIRM_ERASE = "Erase this run, with its images, weights and previews? This cannot be taken back."
RELOAD = (
    "Open downloaded weights in Python: "
    '`l2l_core.load_model("{model}", checkpoint="weights.safetensors")`'
)
PAINT_FIRST = "Paint over the picture what should be removed, then press Compare."
