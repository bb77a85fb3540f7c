package espalier.hub;

import espalier.format.InputException;
import espalier.format.StrictJson;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.regex.Pattern;

/**
 * A repository at one commit.
 *
 * @param commit 40 hexadecimal digits
 */
record HubListing(String commit, List<HubFile> files) {

  private static final Pattern COMMIT = Pattern.compile("[0-9a-f]{40}");
  private static final Pattern BLOB = Pattern.compile("[0-9a-f]{40}|[0-9a-f]{64}");

  /** Reads what the Hub answers. It is trusted as little as any other file. */
  static HubListing parse(HubName name, String text) {
    StrictJson json = StrictJson.parse(Path.of(name.repository()), text);
    String commit = json.text("sha");
    if (!COMMIT.matcher(commit).matches()) {
      throw json.fault("sha", "is no commit");
    }
    List<HubFile> files = new ArrayList<>();
    for (StrictJson file : json.objects("siblings")) {
      files.add(file(name, file));
    }
    return new HubListing(commit, List.copyOf(files));
  }

  private static HubFile file(HubName name, StrictJson json) {
    String path = json.text("rfilename");
    if (path.isEmpty() || !HubName.isPlain(path)) {
      throw new InputException(name + ": lists a file \"" + path + "\", which leads elsewhere");
    }
    StrictJson large = json.object("lfs").orElse(null);
    String blob = large == null ? json.text("blobId") : large.text("sha256");
    if (!BLOB.matcher(blob).matches()) {
      throw new InputException(name + ": lists " + path + " without a checksum");
    }
    StrictJson sized = large != null && large.has("size") ? large : json;
    return new HubFile(path, sized.has("size") ? sized.integer("size") : -1, blob, large != null);
  }
}
