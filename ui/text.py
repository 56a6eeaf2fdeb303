"""Every sentence people read on the page, except what services say about a run."""

NAME = "L2L Unlearning Studio"
PURPOSE = (
    "Choose images, and an image-to-image model unlearns them: after that it can no longer fill "
    "holes in them, and still fills those in all others."
)
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
close to the forgotten ones can suffer too; Compare shows the nearest. The demo models work
at 64 × 64 pixels, so what they paint is soft or rough even before unlearning.

**Your images** stay on the machine that runs the studio, inside your runs, until you erase the run.
The files as you sent them are deleted within an hour. Only this browser sees them.
"""

FORGET_HINT = "Drop images, pick built-in groups, or both."
FORGET_GROUPS = "Built-in groups"
GROUPS = {  # where the words of a key are no name that people would use
    "animals": "animals and plants",
    "animals/plant-flower": "plants › flowers",
    "animals/plant-other": "plants › others",
    "activities/arts-crafts": "activities › arts and crafts",
    "activities/award-medal": "activities › medals",
    "flags/country-flag": "flags › countries",
    "flags/flag": "flags › others",
    "food/food-asian": "food › Asian",
    "food/food-prepared": "food › prepared dishes",
    "food/food-sweet": "food › sweets",
    "objects/book-paper": "objects › books and paper",
    "objects/light-video": "objects › light and video",
    "objects/other-object": "objects › others",
    "people/hand-fingers-closed": "people › hands, closed",
    "people/hand-fingers-open": "people › hands, open",
    "people/hand-fingers-partial": "people › hands, some fingers",
    "people/hand-prop": "people › hands holding something",
    "people/hand-single-finger": "people › hands, one finger",
    "people/hands": "people › hands, both",
    "people/person": "people › of all ages",
    "people/person-activity": "people › active",
    "people/person-fantasy": "people › fantasy figures",
    "people/person-gesture": "people › gestures",
    "people/person-resting": "people › resting",
    "people/person-role": "people › jobs and roles",
    "people/person-sport": "people › sport",
    "people/person-symbol": "people › outlines",
    "smileys/face-affection": "smileys › loving",
    "smileys/face-concerned": "smileys › worried",
    "smileys/face-costume": "smileys › costumes",
    "smileys/face-glasses": "smileys › with glasses",
    "smileys/face-hand": "smileys › with a hand",
    "smileys/face-hat": "smileys › with a hat",
    "smileys/face-negative": "smileys › angry",
    "smileys/face-neutral-skeptical": "smileys › neutral or sceptical",
    "smileys/face-sleepy": "smileys › sleepy",
    "smileys/face-smiling": "smileys › smiling",
    "smileys/face-tongue": "smileys › tongue out",
    "smileys/face-unwell": "smileys › unwell",
    "symbols/alphanum": "symbols › letters and digits",
    "symbols/av-symbol": "symbols › playing and volume",
    "symbols/math": "symbols › mathematics",
    "symbols/other-symbol": "symbols › others",
    "symbols/transport-sign": "symbols › traffic",
    "travel/place-building": "travel › buildings",
    "travel/place-geographic": "travel › landscapes",
    "travel/place-map": "travel › maps",
    "travel/place-other": "travel › other places",
    "travel/place-religious": "travel › religious places",
    "travel/sky-weather": "travel › sky and weather",
    "travel/transport-air": "travel › aircraft",
    "travel/transport-ground": "travel › on land",
    "travel/transport-water": "travel › ships",
}
RETAIN_HINT = "What must keep working."
RETAIN_CHOICES = [
    ("Everything else built in", "proxy"),
    ("Chosen groups", "groups"),
    ("My own images", "uploads"),
]
STRENGTH_HINT = "How long and how hard to train."
PRESETS = {  # the number of steps is the model's
    "quick": "Quick\n{steps} steps, most of the forgetting",
    "balanced": "Balanced\n{steps} steps, the default",
    "thorough": "Thorough\n{steps} steps, for stubborn sets",
}
OPTIONS_OF = "Options of {family}"
FROM_WEIGHTS = "From weights"
SETTINGS = {  # label, and what it means where the setting's own words do not fit the page
    "alpha": ("α", "Weight of forgetting against retaining."),
    "steps": ("Steps", "Empty: the preset's."),
    "learning_rate": ("Learning rate", ""),
    "batch_size": ("Batch", ""),
    "method": (
        "Method",
        "Ours, a baseline of the paper, or ignorance: a plausible answer.",
    ),
    "micro_batch_size": ("Micro-batch", "What the device computes at once; 0 for the whole batch."),
    "gradient_checkpointing": ("Save memory", "Compute the encoder twice; the result is the same."),
    "retain_fraction": ("Share of retain images", ""),
    "warmup": ("Warm-up", "Share of the steps until the rate peaks."),
    "weight_decay": ("Weight decay", "On weight matrices only."),
    "masks": ("Holes", "None ticked: what suits the model, all but hybrid, or hybrid for Palette."),
    "noise": ("Noise", "What forget images are made to look like."),
}
EXAMPLE = "Try the example"
EXAMPLE_GROUP = "flags"
MODEL_TITLE = '<h2 class="l2l-step">Model<small>To unlearn from; the original is kept.</small></h2>'
MORE_MODELS = "Published models, and checkpoints of your own"
PUBLISHED = (
    "Published models do not ship with the studio. Get the file a card names, then open it below."
)
OPEN_TITLE = "Open a checkpoint"
OPEN_HINT = (
    "PyTorch or safetensors files with weights only; a file that would run code is refused. "
    "What you upload is for this browser alone. It stays until you remove it here, or for a day "
    "if no run starts from it."
)
UPLOAD = "Choose files"
UPLOAD_HINT = "Up to {limit:.1f} GB each; send a config.json or a tokenizer along with its model."
PATH = "Or its path, on the machine that runs the studio"
NO_PATHS = (
    "Paths on the machine that runs the studio can only be opened where no other machine reaches "
    "this page, or if it was started with --server-paths: who knows a path could otherwise take "
    "what lies there."
)
FAMILY = "Kind of model"
FIND_OUT = "Find out from the file"
OPEN = "Open"
OPENED = "“{title}” is open and chosen: {family}, {size}."
CONFIRM_REMOVE = "Remove this checkpoint from the studio?"
CANCELLED_WAITING = "Cancelled while it was waiting. This is the run that goes on."
NOTHING_CHOSEN = "Nothing chosen to forget yet."
LEFT_OUT = "Left out"
NOTED = "Good to know"

EMPTY_TITLE = "Before and after will appear here"
EMPTY_STEPS = (
    ("Choose", "Drop a few images, or press “Try the example” to forget all flags."),
    ("Unlearn", "Watch forget images dissolve while retain images stand. A minute or a few."),
    ("Compare", "Fill the same hole with both models, side by side, on images of your choice."),
)
CHOSEN_TITLE = "Ready to unlearn"
PRESS = "Press “Unlearn” below the form and watch forget images dissolve."
LEAVE = "You can close this page: the run goes on, and is here when you come back."
BEFORE_IT = "Before it: {title}, {state}."
VERDICT = (
    "Mean cosine between completion and true image, {extractor}, hole in the centre: higher is "
    "closer to the truth. Forget should fall to its noise level, which the original model reaches "
    "from pure noise; the others should stay. n counts images; held-out ones were not trained on. "
    "PSNR: change inside the hole."
)
CHANGED = "Retain images changed too much: take more steps, or a lower α under Advanced."
FALLS_SHORT = "Forget images are not near noise yet: take more steps, or a higher α under Advanced."
FALLS_SHORT_AND_CHANGED = (
    "Forget images are not near noise yet, and retain images changed too much: take more steps."
)
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
    "random": "Share hidden",
}
TRY = "Drop other images to try"
TRY_FEWER = "At most {most} images can be tried at once; the first {most} are kept."
ROLES = {
    "extra": ("Your images", "what both models make of the images you dropped"),
    "forget": ("Forget", "should be destroyed"),
    "uploads": ("Forget, the images themselves", "should be destroyed"),
    "nearest": ("Nearest retain", "the images most like the forgotten; damage shows here first"),
    "retain": ("Retain", "should look unchanged"),
}
COLUMNS = {
    "hole": "With hole",
    "original": "Original",
    "unlearned": "Unlearned",
    "gold": "Never saw it",
}
NO_RUN_TO_COMPARE = "Nothing to compare yet"
NO_RUN_HINT = "Finish a run under Unlearn; its before and after appear here."
COMPLETING = "{model}: step {step} of {steps}"
STEPS = "Steps of a completion"
COMPARE_HINT = "Point at an input to see the true image. Click a sample to look closer."
HELD_OUT_HINT = "Held-out images were not trained on."
DRAWN_HINT = "The hole you drew is the same in all images."
GOLD_HINT = (
    "Never saw it: a model trained without the forget images. It answers with something plausible."
)
SCORE = "similarity to the true image: cosine in the built-in feature net"

NO_RUNS = "No runs yet. What you start under Unlearn is listed here."
CONFIRM_ERASE = (
    "Erase this run, with its images, weights and previews? This cannot be taken back. What your "
    "browser sent stays in a private temporary folder for up to an hour."
)
RELOAD = (
    'Open downloaded weights in Python: `l2l_core.load_model("mae", '
    'checkpoint="weights.safetensors")`; the families are {families}.'
)
PAINT_FIRST = (
    "Nothing is painted yet. Paint over the picture what should be removed, then press Compare; "
    "the same hole is used for all images."
)
NOTHING_TO_PAINT = "Drop an image to paint on, or fill another hole first."
SEEDS = "A seed is a whole number from 0 on."

MEASURE = "Measure"
MEASURE_AGAIN = "Measure again"
MEASURE_HINT = (
    "Every metric with its interval, on retain, nearest retain and forget images, and a map of "
    "them. Takes a minute or a few; you can leave this page, and Compare stays usable."
)
AUDIT = "Attack it"
AUDIT_AGAIN = "Attack it again"
AUDIT_HINT = (
    "Two audits of the unlearned model: can a few forget images make it remember, and can one tell "
    "which images it forgot?"
)
AUDITED_TITLE = "What attacks found"
NO_MEMBERSHIP = "Membership needs unseen images of the same kind; here none were kept apart."
NOT_MEASURED = "Not measured yet"
NOT_MEASURED_HINT = "Press “Measure” for the full table and the map."
NOTHING_TO_EVALUATE = "Nothing to evaluate yet"
NO_EVALUATION_HINT = "Finish a run under Unlearn; its table, its map and the plot appear here."
MEASURED_TITLE = "What was kept, and what was lost"
ARROWS = (
    "Arrows point towards the truth: retain images should stay there, forget images should leave. "
    "{interval}. {hole}, seed {seed}. {sources}."
)
KID_HINT = "KID leaves an image's own completion out, which would be too like it in so small a set."
NEVER_SAW_HINT = "Never saw: a model trained without the forget images."
WORDS = {
    "KID, own pairs left out": "An image's own completion is not counted as like it, which "
    "would make so small a set look too good.",
    "Never saw": "A model trained without the forget images.",
    "Noise level": "What the original model makes of noise in place of the visible part.",
    "representation moved": "How far the encoder's output is from the original's.",
    "cosine with never-saw": "Similarity to what the model makes that never saw the images.",
    "IS": "Inception Score",
}
SETS_TOLD = {
    "Retain (held out)": "training never saw these",
    "Forget (held out)": "of the groups to forget, but training never saw these",
    "Nearest retain": "the retain images most like the forgotten",
}
HOLES = {"centre:0.5": "Hole in the centre, half the side"}
KEPT = "Kept: lost at most {cosine} of similarity and {psnr} dB of PSNR."
QUICK_LOOK = (
    "The look at the end of the run ({quick}) sought the nearest retain images among a part of "
    "all; here all were searched, so these are nearer."
)
MAP_TITLE = "Map of the images"
MAP_HINT = "t-SNE of features by {extractor}, compared by cosine. {hole}, seed {seed}."
TRIED_TITLE = "Your runs that forget the same images"
TRIED_HINT = (
    "How far similarity to the truth moved on a retain image, up or down (drift), against how much "
    "of it forget images lost (damage), in the mean."
)
TRIED_LINE = (
    "Good runs are up and to the left; those on the dashed line are unbeaten: no other run has as "
    "little drift with as much damage."
)
TRIED_ONE = "Another run that forgets the same images, at another strength say, can be held to it."
TRIED_GOLD = (
    "The ring is a model trained without these images, a goal rather than a rival: it is another "
    "training, so it drifts, and it answers with something plausible, not noise."
)
TRIED_FROM = (
    "From the look at the end of each run: cosine in the built-in feature net, hole in the centre."
)
DIFFERENCES_TITLE = "Differences between two runs"
SAME_SETTINGS = "Both runs were asked for in the same way."
DIFFERENCES_HINT = (
    "Numbers: similarity to the true image, original → unlearned, at the end of each run."
)
CHOOSE_TWO = (
    "Choose two different runs. “Re-run with changes” above makes a second one of the same images."
)
REFILLED = "The form holds this run's settings. Change what you like, then press Unlearn."
