// The App opens with an advertisement for FiftyOne Enterprise that has to be closed by hand.
try {
  localStorage.setItem("fiftyone-enterprise-tooltip-seen", "true");
} catch {}
