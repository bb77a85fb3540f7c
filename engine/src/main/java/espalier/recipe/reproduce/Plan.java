package espalier.recipe.reproduce;

import espalier.format.InputException;
import espalier.recipe.Require;
import java.util.Locale;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * How large a run is; it holds for all its cells. Together with the settings of the run it decides
 * what every cell does, so a cell can be run anywhere and at any time.
 *
 * @param saeSteps how many steps each SAE is trained
 * @param steps how many steps each adapter is trained
 * @param endToEndSteps how many steps each end-to-end SAE is trained
 * @param evalRows how many rows of the evaluation data are used
 */
public record Plan(Grid grid, int saeSteps, int steps, int endToEndSteps, int evalRows) {

  private static final Pattern FORM =
      Pattern.compile(
          "(full|medium|small),sae=(\\d{1,9}),lora=(\\d{1,9}),e2e=(\\d{1,9}),eval=(\\d{1,9})");

  public Plan {
    Require.atLeast("--plan: sae", saeSteps, 1);
    Require.atLeast("--plan: lora", steps, 1);
    Require.atLeast("--plan: e2e", endToEndSteps, 1);
    Require.atLeast("--plan: eval", evalRows, 1);
  }

  /** The plan as the command line takes it. */
  @Override
  public String toString() {
    return String.format(
        Locale.ROOT,
        "%s,sae=%d,lora=%d,e2e=%d,eval=%d",
        grid.name().toLowerCase(Locale.ROOT),
        saeSteps,
        steps,
        endToEndSteps,
        evalRows);
  }

  public static Plan parse(String text) {
    Matcher form = FORM.matcher(text);
    if (!form.matches()) {
      throw new InputException(
          "--plan "
              + text
              + ": expected full|medium|small,sae=STEPS,lora=STEPS,e2e=STEPS,eval=ROWS");
    }
    return new Plan(
        Grid.valueOf(form.group(1).toUpperCase(Locale.ROOT)),
        Integer.parseInt(form.group(2)),
        Integer.parseInt(form.group(3)),
        Integer.parseInt(form.group(4)),
        Integer.parseInt(form.group(5)));
  }

  /** How many steps the SAE has been trained after a percentage of its training. */
  int saeStepsAt(int percent) {
    return (int) ((long) saeSteps * percent / 100);
  }
}
