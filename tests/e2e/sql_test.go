package e2e

import (
	"fmt"
	"os/exec"
	"strconv"
	"strings"
)

// sql runs statements one by one through sqlite3(1): a writer adds rows, of which each transaction has
// one, and a reader wants the rows of each writer to be without gaps at any time.
func sql(args []string) error {
	role, db, writer := args[0], args[1], args[2]
	rounds, err := strconv.Atoi(args[3])
	if err != nil {
		return err
	}
	for i := range rounds {
		statement := fmt.Sprintf("INSERT INTO t VALUES(%s, %d, randomblob(%d));", writer, i, 100+i*97%9000)
		if role == "read" {
			statement = "SELECT COUNT(*) FROM (SELECT w, MAX(n)+1 AS m, COUNT(*) AS c FROM t GROUP BY w) WHERE m <> c;"
		}
		out, err := exec.Command("sqlite3", "-cmd", ".timeout 60000", db, statement).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w\n%s", statement, err, out)
		}
		if role == "read" && strings.TrimSpace(string(out)) != "0" {
			return fmt.Errorf("a reader sees gaps: %s", out)
		}
	}
	return nil
}
