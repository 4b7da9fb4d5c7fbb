// Command churn keeps the Go runtime busy: goroutines over channels, maps, garbage, sorting, text, panics that are
// recovered, and a ticker. Usage: churn SIZE
package main

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

type order struct {
	ID     int      `json:"id"`
	Tags   []string `json:"tags"`
	Amount float64  `json:"amount"`
}

type node struct{ left, right *node }

func main() {
	size := 10
	if len(os.Args) > 1 {
		value, err := strconv.Atoi(os.Args[1])
		if err != nil || value < 1 {
			fmt.Fprintln(os.Stderr, "usage: churn SIZE")
			os.Exit(2)
		}
		size = value
	}
	fmt.Println("workers", workers(size))
	fmt.Println("words", words(size))
	fmt.Println("sorted", sorted(size*50))
	fmt.Println("garbage", garbage(size))
	fmt.Println("text", text(size))
	fmt.Println("recovered", recovered(size))
	fmt.Println("ticks", ticks(3))
}

// workers squares numbers in eight goroutines; the sum does not depend on who did what.
func workers(size int) int {
	jobs, results := make(chan int), make(chan int, 4)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for job := range jobs {
				results <- job * job
			}
		})
	}
	go func() {
		for i := range size * 20 {
			jobs <- i
		}
		close(jobs)
		group.Wait()
		close(results)
	}()
	sum := 0
	for result := range results {
		sum += result
	}
	return sum
}

// words counts in a map and lists the counts in order.
func words(size int) string {
	counts := map[string]int{}
	random := uint32(1)
	for range size * 100 {
		random = random*1664525 + 1013904223
		counts["w"+strconv.Itoa(int(random>>24)%37)]++
	}
	keys := make([]string, 0, len(counts))
	for key := range counts {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b string) int { return cmp.Or(counts[b]-counts[a], strings.Compare(a, b)) })
	return fmt.Sprint(len(counts), " ", keys[0], "=", counts[keys[0]])
}

func sorted(count int) string {
	values := make([]float64, count)
	random := uint32(7)
	for i := range values {
		random = random*1664525 + 1013904223
		values[i] = float64(random>>8) / 16
	}
	slices.Sort(values)
	at, found := slices.BinarySearch(values, values[count/3])
	return fmt.Sprint(values[0], " ", values[count-1], " ", at <= count/3, " ", found)
}

// garbage builds trees, drops them, and collects.
func garbage(size int) int {
	var grow func(depth int) *node
	grow = func(depth int) *node {
		if depth == 0 {
			return nil
		}
		return &node{grow(depth - 1), grow(depth - 1)}
	}
	var count func(n *node) int
	count = func(n *node) int {
		if n == nil {
			return 0
		}
		return 1 + count(n.left) + count(n.right)
	}
	sum := 0
	for i := range size {
		sum += count(grow(4 + i%6))
		if i%50 == 0 {
			runtime.GC()
		}
	}
	return sum
}

func text(size int) string {
	orders := []order{}
	for i := range size {
		orders = append(orders, order{i, []string{strings.Repeat("ab", i%5), "t" + strconv.Itoa(i)}, float64(i) / 8})
	}
	bytes, err := json.Marshal(orders)
	if err != nil {
		return err.Error()
	}
	var back []order
	if err := json.Unmarshal(bytes, &back); err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d %d %x", len(bytes), len(back), sha256.Sum256(bytes))
}

var errThird = errors.New("third")

// recovered panics in three ways and takes each back.
func recovered(size int) (total int) {
	risky := func(i int) (err error) {
		defer func() {
			switch value := recover().(type) {
			case nil:
			case runtime.Error:
				err = fmt.Errorf("runtime: %w", value)
			case error:
				err = value
			}
		}()
		var numbers []int
		switch i % 3 {
		case 0:
			return fmt.Errorf("number %d", numbers[i])
		case 1:
			panic(fmt.Errorf("wrapped: %w", errThird))
		}
		return nil
	}
	for i := range size {
		err := risky(i)
		var bounds runtime.Error
		switch {
		case errors.Is(err, errThird):
			total += 100
		case errors.As(err, &bounds):
			total++
		}
	}
	return total
}

func ticks(count int) int {
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(10 * time.Second)
	for i := range count {
		select {
		case <-ticker.C:
		case <-deadline:
			return i
		}
	}
	return count
}
