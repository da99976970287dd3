// Paper is white: a page is printed in light colours, and with the pictures that nobody has scrolled to.
{
  const root = document.documentElement;
  let theme;
  const begin = () => {
    theme ??= root.dataset.theme;
    root.dataset.theme = "light";
    document.querySelectorAll("img[loading=lazy]").forEach((image) => { image.loading = "eager"; });
  };
  const end = () => {
    if (theme) root.dataset.theme = theme;
    theme = undefined;
  };
  addEventListener("beforeprint", begin);
  addEventListener("afterprint", end);
  matchMedia("print").addEventListener("change", ({ matches }) => (matches ? begin() : end()));
}
