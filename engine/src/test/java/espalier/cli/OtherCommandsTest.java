package espalier.cli;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import espalier.Abroad;
import espalier.Golden;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** Of the commands beside {@code adapt}: what they refuse, and how what goes wrong is told. */
class OtherCommandsTest {

  @TempDir private Path temp;

  /** Words separated by spaces; those in capitals stand for paths. */
  private Outcome run(String line) {
    return Outcome.of(
        line.replace("MODEL", Golden.folder("llama").toString())
            .replace("UNTIED", Golden.folder("llama-untied").toString())
            .replace("ADAPTER", Golden.folder("adapter").toString())
            .replace("DATA", Golden.folder("tokens.npy").toString())
            .replace("SAE", Golden.folder("sae-topk").toString())
            .replace("TEMP", temp.toString())
            .split(" "));
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      value = {
        "bogus | bogus",
        "--verbose | --verbose",
        "evaluate --model MODEL | --data",
        "evaluate --model MODEL --data | --data",
        "evaluate --modle MODEL --data DATA | --modle",
        "evaluate --model MODEL --model MODEL --data DATA | --model is given twice",
        "evaluate --model MODEL --data DATA --json --json | --json is given twice",
        "evaluate --model MODEL --data DATA --json=maybe | --json maybe",
        "evaluate --model MODEL --data DATA --adapter nowhere | nowhere",
        "evaluate --model MODEL --data DATA --device cuda | --device cuda",
        "evaluate --model MODEL --data DATA --dtype f64 | --dtype f64",
        "evaluate --model MODEL --data DATA --context 1 | --context 1",
        "evaluate --model MODEL --data DATA --out /proc/x | --out /proc/x",
        "evaluate --model MODEL --data DATA --out DATA/x | --out",
        "merge --model MODEL --adapter ADAPTER | --out",
        "merge --model MODEL --adapter nowhere --out TEMP/out | nowhere",
        "merge --model nowhere --adapter ADAPTER --out TEMP/out | nowhere",
        "merge --model MODEL --adapter ADAPTER --out MODEL | --out",
        "merge --model MODEL --adapter ADAPTER --out MODEL/config.json | --out",
        "merge --model MODEL --adapter ADAPTER --out TEMP/out --dtype bf16 | --dtype bf16",
        "merge --model MODEL --adapter ADAPTER --out /proc/x | --out /proc/x",
        "merge --model UNTIED --adapter ADAPTER --out TEMP/out | adapter_model.safetensors",
        "train-sae --model MODEL --data DATA --out TEMP/out | --layer",
        "train-sae --model MODEL --data DATA --out TEMP/out --layer 1 --dtype bf16 | --dtype",
        "demo --out TEMP/demo --dtype bf16 | --dtype",
        "train-sae --model MODEL --data DATA --out TEMP/out --layer -1 | --layer -1",
        "train-sae --model MODEL --data DATA --out TEMP/out --layer 4 | --layer 4",
        "train-sae --model MODEL --data DATA --out TEMP/out --layer 1 --arch sparse | --arch"
            + " sparse",
        "train-sae --model MODEL --data DATA --out TEMP/out --layer 1 --objective x | --objective"
            + " x",
        "train-sae --model MODEL --data DATA --out TEMP/out --layer 1 --k 5000 | --k 5000",
        "train-sae --model MODEL --data DATA --out TEMP/out --layer 1 --latents 0 | --latents 0",
        "train-sae --model MODEL --data DATA --out TEMP/out --layer 1 --bandwidth 0 | --bandwidth"
            + " 0",
        "train-sae --model MODEL --data DATA --out TEMP/out --layer 1 --l1 -1 | --l1 -1",
        "train-sae --model MODEL --data DATA --out TEMP/out --layer 1 --eval-data no.npy | no.npy",
        "train-sae --model MODEL --data DATA --out TEMP/out --init-sae 1=SAE --arch gated | --arch",
        "train-sae --model MODEL --data DATA --out TEMP/out --init-sae 1=SAE --latents 9"
            + " | --latents",
        "train-sae --model MODEL --data DATA --out TEMP/out --init-sae 1=SAE --k 4 | --k 4",
        "pretrain --config MODEL/config.json --data DATA --out /proc/x | --out /proc/x",
        "pretrain --config nowhere --data DATA --out TEMP/out | nowhere",
        "pretrain --config MODEL/config.json --out TEMP/out | --data",
        "pretrain --config MODEL/config.json --data DATA --out TEMP/out --lr 0 | --lr 0",
        "pretrain --config MODEL/config.json --data DATA --out TEMP/out --clip nan | --clip",
        "generate --model MODEL | --prompt",
        "score --model MODEL | --questions",
        "score --model MODEL --questions nowhere.jsonl | nowhere.jsonl",
        "score --model MODEL --questions nowhere.jsonl --adapter ADAPTER | --adapter",
        "score --model MODEL --questions nowhere.jsonl --limit 0 | --limit 0",
        "score --model MODEL --questions x --details TEMP/no/d.jsonl | --details",
        "score --model MODEL --questions x --details TEMP | --details",
        "probe --model MODEL --data x --eval-data y | --label",
        "probe --model MODEL --data x --eval-data y --label z --features DATA | --features",
        "probe --model MODEL --data x.jsonl --eval-data y --label z | x.jsonl",
        "probe --model MODEL --data x --eval-data y --label z --k 0 | --k 0",
        "steer --model MODEL --latent 1 --strength 1 --positive x --negative y | --latent 1",
        "steer --model MODEL --latent 1:2 --strength 1 --positive x --negative y | --latent 1:2",
        "generate --model MODEL --prompt x --steer 1:2 | --steer 1:2",
        "generate --model MODEL --prompt x --steer 1:2=3 | --steer 1",
        "generate --model MODEL --prompt x --top-p 0 | --top-p 0",
        "generate --model MODEL --prompt x --top-p 1.5 | --top-p 1.5",
        "generate --model MODEL --prompt x --temperature -1 | --temperature -1",
        "generate --model MODEL --prompt x --max-tokens 0 | --max-tokens 0",
        "inspect | PATH",
        "inspect nowhere | nowhere",
        "inspect SAE SAE | SAE",
        "inspect SAE --latents TEMP/out | --input",
        "inspect SAE --input nowhere.npy --output TEMP/out | nowhere.npy",
        "inspect SAE --input DATA --output TEMP/no/y.npy | --output",
        "inspect SAE --input DATA --latents TEMP | --latents",
        "inspect MODEL --input DATA --hidden /dev/null | --hidden",
        "bench --shape tiny --profile TEMP/no/trace.json | --profile",
        "inspect MODEL --input DATA --latents TEMP/out | --latents",
        "inspect MODEL --input SAE --output TEMP/out | SAE",
        "inspect MODEL --hidden TEMP/out | --hidden",
        "inspect SAE --input nowhere.npy --hidden TEMP/out | --hidden",
        "report | RUN_DIR",
        "report nowhere | nowhere",
        "report MODEL --out TEMP/out | no run",
        "report --device cpu x | --device",
        "doctor x | x",
        "doctor --device cuda | --device",
        "demo --seed x | --seed x",
        "demo --scale 0 | --scale 0",
      })
  void isRefused(String line, String named) {
    Outcome outcome = run(line);
    assertEquals(2, outcome.code(), outcome.err());
    assertEquals("", outcome.out());
    assertEquals(1, outcome.err().lines().count(), outcome.err());
    assertTrue(
        outcome.err().contains(named.replace("SAE", Golden.folder("sae-topk").toString())),
        outcome.err());
    assertFalse(outcome.err().contains("Exception"), outcome.err());
    assertFalse(Files.exists(temp.resolve("out")), "something was written");
  }

  @Test
  void aPromptMayNameAFile() throws IOException {
    Path options = Files.writeString(temp.resolve("options"), "x\n--no-such-option");
    Outcome outcome = run("generate --model MODEL --prompt @" + options);
    assertFalse(outcome.err().contains("--no-such-option"), outcome.err());
  }

  /** A table of figures is read by scripts as well. */
  @Test
  void figuresAreTheSameInEveryCountry() throws Exception {
    String command = "evaluate --model MODEL --sae 1=SAE --data DATA";
    String here = run(command).out();
    Abroad.run(
        () -> {
          Outcome outcome = run(command);
          assertEquals(here, outcome.out());
          assertTrue(outcome.err().chars().allMatch(c -> c < 128), outcome.err());
        });
  }

  @Test
  void doctorNamesWhatItLookedFor() {
    Outcome outcome = run("doctor");
    assertEquals(0, outcome.code(), outcome.err());
    for (String subject : new String[] {"version", "JDK", "kernels", "GPU", "CUDA"}) {
      assertTrue(outcome.out().lines().anyMatch(l -> l.startsWith(subject + " ")), outcome.out());
    }
  }
}
